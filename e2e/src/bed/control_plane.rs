//! A real Kubernetes control plane: etcd, API server, controller manager and scheduler. There is no node, so pods stay
//! pending and a test says itself how they are. Source of the program: `e2e/cluster`.

use super::{Room, prepared};
use crate::proxy::Proxy;
use anyhow::{Context, Result, bail, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value as Json;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

pub struct ControlPlane {
    process: Child,
    program: PathBuf,
    room: Arc<Room>,
}

/// One write that the API server was asked for, as its audit log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub user: String,
    pub namespace: String,
    pub verb: String,
    pub resource: String,
    pub name: String,
}

impl ControlPlane {
    pub async fn start() -> Result<ControlPlane> {
        tokio::task::spawn_blocking(start).await?
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.room.path().join("admin.kubeconfig")
    }

    /// A folder for what belongs to this control plane; it goes when this does.
    pub fn room(&self) -> &Path {
        self.room.path()
    }

    /// The administrator's client.
    pub async fn client(&self) -> Result<kube::Client> {
        client_of(&self.kubeconfig()).await
    }

    /// Writes the kubeconfig of a ServiceAccount, with a token of its own.
    pub fn kubeconfig_for(&self, namespace: &str, service_account: &str) -> Result<PathBuf> {
        let make_token = ["create", "token", service_account, "-n", namespace, OUTLIVES_ALL];
        self.kubeconfig_with(&format!("{namespace}-{service_account}"), &make_token)
    }

    /// Writes a kubeconfig with the token that kubectl makes by these words.
    pub fn kubeconfig_with(&self, name: &str, make_token: &[&str]) -> Result<PathBuf> {
        let token = self.kubectl(make_token)?;
        let mut config: Json = serde_yaml::from_str(&std::fs::read_to_string(self.kubeconfig())?)?;
        config["users"][0]["user"] = serde_json::json!({ "token": token.trim() });
        let path = self.room.path().join(format!("{name}.kubeconfig"));
        std::fs::write(&path, serde_yaml::to_string(&config)?)?;
        Ok(path)
    }

    /// For whoever runs pods, beside this.
    pub fn binder(&self) -> Binder {
        Binder { program: self.program.clone(), room: self.room.clone() }
    }

    /// Its output, or what it complained of.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let out = self.kubectl_output(arguments)?;
        ensure!(out.status.success(), "kubectl {}: {}", arguments.join(" "), String::from_utf8_lossy(&out.stderr).trim());
        Ok(String::from_utf8(out.stdout)?)
    }

    /// What kubectl says when it must fail.
    pub fn kubectl_refusal(&self, arguments: &[&str]) -> Result<String> {
        let out = self.kubectl_output(arguments)?;
        ensure!(!out.status.success(), "kubectl {} was not refused", arguments.join(" "));
        Ok(String::from_utf8(out.stderr)?)
    }

    /// Applies a manifest given as text.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        let file = self.manifest(manifest)?;
        self.kubectl(&["apply", "-f", &file.to_string_lossy()])
    }

    /// Why the API server does not take this manifest.
    pub fn apply_refusal(&self, manifest: &str) -> Result<String> {
        let file = self.manifest(manifest)?;
        self.kubectl_refusal(&["apply", "-f", &file.to_string_lossy()])
    }

    /// Every write so far, oldest first, of those users whose name contains `user`.
    pub fn writes(&self, user: &str) -> Result<Vec<Write>> {
        let log = self.room.path().join("logs/audit.log");
        let text = std::fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
        let mut writes = Vec::new();
        // the last line may be half written: it is the next call's
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            let event: Json = serde_json::from_str(line).context("a line of the audit log")?;
            let word = |path: &str| event.pointer(path).and_then(Json::as_str).unwrap_or_default().to_owned();
            if word("/user/username").contains(user) {
                writes.push(Write {
                    user: word("/user/username"),
                    namespace: word("/objectRef/namespace"),
                    verb: word("/verb"),
                    resource: word("/objectRef/resource"),
                    name: word("/objectRef/name"),
                });
            }
        }
        Ok(writes)
    }

    fn manifest(&self, text: &str) -> Result<PathBuf> {
        let path = self.room.path().join(format!("{}.yaml", uuid::Uuid::new_v4().simple()));
        std::fs::write(&path, text)?;
        Ok(path)
    }

    fn kubectl_output(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.program);
        // its discovery cache must not be shared between clusters that come and go on the same ports
        command.arg("kubectl").arg("--kubeconfig").arg(self.kubeconfig()).arg("--cache-dir").arg(self.room.path().join("kubectl"));
        command.args(arguments).output().context("running kubectl")
    }
}

/// A token is good for an hour where nobody says more, and nobody renews it here: a long run would end with it.
const OUTLIVES_ALL: &str = "--duration=24h";

/// Makes the tokens of pods.
#[derive(Clone)]
pub struct Binder {
    program: PathBuf,
    room: Arc<Room>,
}

impl Binder {
    /// host:port.
    pub fn api_server(&self, admin: &Path) -> Result<String> {
        let config: Json = serde_yaml::from_str(&std::fs::read_to_string(admin)?)?;
        let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap_or_default();
        Ok(server.strip_prefix("https://").context("where the API server is")?.to_owned())
    }

    /// The kubeconfig of a pod: with a token that is bound to it, as a kubelet mounts it.
    pub fn kubeconfig_of_pod(&self, admin: &Path, namespace: &str, account: &str, pod: &str) -> Result<PathBuf> {
        let mut command = Command::new(&self.program);
        command.arg("kubectl").arg("--kubeconfig").arg(admin).arg("--cache-dir").arg(self.room.path().join("kubectl"));
        command.args(["create", "token", account, "-n", namespace, OUTLIVES_ALL, "--bound-object-kind", "Pod", "--bound-object-name", pod]);
        let out = command.output().context("running kubectl")?;
        ensure!(out.status.success(), "a token for {pod}: {}", String::from_utf8_lossy(&out.stderr).trim());
        let mut config: Json = serde_yaml::from_str(&std::fs::read_to_string(admin)?)?;
        config["users"][0]["user"] = serde_json::json!({ "token": String::from_utf8(out.stdout)?.trim() });
        let path = self.room.path().join(format!("{namespace}-{pod}.kubeconfig"));
        std::fs::write(&path, serde_yaml::to_string(&config)?)?;
        Ok(path)
    }
}

/// Has a kubeconfig lead through a proxy before the API server, or before somebody (`http`) who carries to it.
pub fn lead_through(scheme: &str, proxy: &Proxy, kubeconfig: &Path) -> Result<()> {
    let mut config: Json = serde_yaml::from_str(&std::fs::read_to_string(kubeconfig)?)?;
    config["clusters"][0]["cluster"]["server"] = format!("{scheme}://127.0.0.1:{}", proxy.port()).into();
    Ok(std::fs::write(kubeconfig, serde_yaml::to_string(&config)?)?)
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        // The cluster ends when its standard input does; that also holds if this process is killed.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

pub async fn client_of(kubeconfig: &Path) -> Result<kube::Client> {
    // More than one provider is compiled into this crate, so that one has to be named; a second call changes nothing.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = kube::Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// The port of a cluster may be taken by somebody else between its choice and its use: then another is tried.
fn start() -> Result<ControlPlane> {
    let mut failures = Vec::new();
    for _ in 0..3 {
        match start_once() {
            Ok(cluster) => return Ok(cluster),
            Err(why) => failures.push(format!("{why:#}")),
        }
    }
    bail!("no control plane in three tries: {}", failures.join("; "))
}

fn start_once() -> Result<ControlPlane> {
    let program = prepared("bin/testcluster")?;
    let room = Room::new("cluster")?;
    let mut command = Command::new(&program);
    command.args(["run", "--api-port", "0", "--dir"]).arg(room.path()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().context("starting testcluster")?;
    let out = process.stdout.take().context("testcluster has no output")?;
    for line in BufReader::new(out).lines() {
        if line?.starts_with("kubeconfig:") {
            // else it would end at the first word that it writes there
            let errors = process.stderr.take();
            std::thread::spawn(move || errors.map(|mut e| std::io::copy(&mut e, &mut std::io::sink())));
            return Ok(ControlPlane { process, program, room });
        }
    }
    let mut why = String::new();
    if let Some(mut errors) = process.stderr.take() {
        errors.read_to_string(&mut why)?;
    }
    let _ = process.wait();
    bail!("testcluster: {}", why.trim())
}
