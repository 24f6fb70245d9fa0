package main

import (
	"fmt"
	"path/filepath"
	"strings"
)

// program is one long-running process of the cluster.
type program struct {
	name string
	// command is what to run; nil means this binary under the program's own name.
	command []string
	args    []string
}

func etcdProgram(p plan) program {
	return program{name: "etcd", args: []string{
		"--data-dir=" + p.path("etcd"),
		"--client-url=" + p.etcdURL(),
		"--peer-url=" + p.peerURL(),
	}}
}

func apiServerProgram(p plan) program {
	args := []string{
		"--etcd-servers=" + p.etcdURL(),
		"--bind-address=" + p.APIAddress,
		"--advertise-address=" + p.APIAddress,
		fmt.Sprintf("--secure-port=%d", p.APIPort),
		"--cert-dir=" + p.path("pki"),
		"--tls-cert-file=" + p.pki("apiserver.crt"),
		"--tls-private-key-file=" + p.pki("apiserver.key"),
		"--client-ca-file=" + p.pki("ca.crt"),
		"--service-cluster-ip-range=" + serviceCIDR,
		"--authorization-mode=Node,RBAC",
		"--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--service-account-issuer=https://kubernetes.default.svc." + clusterDomain,
		"--service-account-key-file=" + p.pki("service-account.pub"),
		"--service-account-signing-key-file=" + p.pki("service-account.key"),
		// The aggregation layer, which serves a metrics API such as KEDA's.
		"--requestheader-client-ca-file=" + p.pki("front-proxy-ca.crt"),
		"--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User",
		"--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + p.pki("front-proxy-client.crt"),
		"--proxy-client-key-file=" + p.pki("front-proxy-client.key"),
		"--kubelet-client-certificate=" + p.pki("apiserver-kubelet-client.crt"),
		"--kubelet-client-key=" + p.pki("apiserver-kubelet-client.key"),
		"--kubelet-certificate-authority=" + p.pki("ca.crt"),
		"--kubelet-preferred-address-types=InternalIP",
		"--audit-policy-file=" + p.path("etc", "audit.yaml"),
		"--audit-log-path=" + p.logFile("audit"),
	}
	if !p.Node {
		// Endpoints may not hold a loopback address, and nobody would use them here.
		args = append(args, "--endpoint-reconciler-type=none")
	}
	return program{name: "kube-apiserver", args: args}
}

func controllerManagerProgram(p plan) program {
	return program{name: "kube-controller-manager", args: []string{
		"--kubeconfig=" + p.kubeconfig("kube-controller-manager"),
		"--secure-port=0",
		"--leader-elect=false",
		// At the default of 20 requests a second the controllers take five seconds to start.
		"--kube-api-qps=500",
		"--kube-api-burst=1000",
		"--use-service-account-credentials=true",
		"--service-account-private-key-file=" + p.pki("service-account.key"),
		"--root-ca-file=" + p.pki("ca.crt"),
		"--cluster-signing-cert-file=" + p.pki("ca.crt"),
		"--cluster-signing-key-file=" + p.pki("ca.key"),
		"--allocate-node-cidrs=false", // one node: its pod addresses are in the CNI configuration
	}}
}

func schedulerProgram(p plan) program {
	return program{name: "kube-scheduler", args: []string{
		"--kubeconfig=" + p.kubeconfig("kube-scheduler"),
		"--secure-port=0",
		"--leader-elect=false",
	}}
}

func containerdProgram(p plan) program {
	return program{name: "containerd", command: []string{"containerd"}, args: []string{
		"--config=" + p.path("etc", "containerd.toml"),
	}}
}

func kubeletProgram(p plan) program {
	return program{name: "kubelet", args: []string{
		"--config=" + p.path("etc", "kubelet.yaml"),
		"--kubeconfig=" + p.kubeconfig("kubelet"),
		"--hostname-override=" + nodeName,
		"--node-ip=" + nodeAddress,
	}}
}

func kubeProxyProgram(p plan) program {
	return program{name: "kube-proxy", args: []string{"--config=" + p.path("etc", "kube-proxy.yaml")}}
}

func coreDNSProgram(p plan) program {
	return program{name: "coredns", command: []string{filepath.Join(p.Bin, "coredns")},
		args: []string{"-conf=" + p.path("etc", "Corefile")}}
}

// nodeConfigFiles are the files the node's programs read, by their path under DIR/etc.
func nodeConfigFiles(p plan) map[string]string {
	fill := strings.NewReplacer(
		"$DIR", p.Dir, "$CNI_BIN", p.CNIBin, "$PAUSE_IMAGE", pauseImage, "$CGROUP", p.cgroup(),
		"$NODE_ADDRESS", nodeAddress, "$NODE_NAME", nodeName, "$POD_CIDR", podCIDR,
		"$SERVICE_CIDR", serviceCIDR, "$DOMAIN", clusterDomain,
	)
	files := map[string]string{
		"resolv.conf":          "",
		"containerd.toml":      containerdConfig,
		"kubelet.yaml":         kubeletConfig,
		"kube-proxy.yaml":      kubeProxyConfig,
		"Corefile":             corefile,
		"audit.yaml":           auditPolicy,
		"cni/10-pods.conflist": cniConfig,
	}
	for name, text := range files {
		files[name] = fill.Replace(text)
	}
	return files
}

// auditPolicy notes every write, once, with who made it: so that a test can tell that nothing was written.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, verbs: [get, list, watch]}
- {level: Metadata}
`

// restrict_oom_score_adj: Kubernetes wants a low OOM score for every sandbox, and where root may not
// lower a score (it lacks CAP_SYS_RESOURCE), runc could start none.
const containerdConfig = `version = 2
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "$CNI_BIN"
    conf_dir = "$DIR/etc/cni"
`

// The "ptp" plugin gives each pod a cable of its own to the node, so that all traffic between pods
// is routed and kube-proxy's rules see it. Pods on a shared bridge would need br_netfilter for that.
const cniConfig = `{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {"type": "ptp", "ipMasq": false,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_CIDR"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

// syncFrequency is 1m by default: a changed ConfigMap would take up to that long to reach its volume.
// Images are only ever loaded by hand, so that the kubelet must never delete one to win space.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /$CGROUP
failCgroupV1: false
failSwapOn: false
address: $NODE_ADDRESS
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: $DIR/pki/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: $DIR/pki/kubelet-server.crt
tlsPrivateKeyFile: $DIR/pki/kubelet-server.key
clusterDomain: $DOMAIN
clusterDNS: [$NODE_ADDRESS]
resolvConf: $DIR/etc/resolv.conf
makeIPTablesUtilChains: false
syncFrequency: 5s
imageGCHighThresholdPercent: 100
imageMinimumGCAge: 24h
evictionHard: {memory.available: 200Mi}
`

const kubeProxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: $DIR/kube-proxy.kubeconfig}
clusterCIDR: $POD_CIDR
hostnameOverride: $NODE_NAME
bindAddress: $NODE_ADDRESS
# These are settings of the whole machine, which a network namespace may not change.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`

// Names outside the cluster get an answer (no such name) at once: there is nowhere to ask.
const corefile = `.:53 {
  bind $NODE_ADDRESS
  errors
  kubernetes $DOMAIN in-addr.arpa {
    kubeconfig $DIR/coredns.kubeconfig
    ttl 5
  }
  template ANY ANY {
    rcode NXDOMAIN
  }
}
`
