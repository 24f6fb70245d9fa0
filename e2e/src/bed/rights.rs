//! Grants rights on a test cluster. librdkafka's Rust binding cannot, so that one request is written by hand.

use super::Kafka;
use anyhow::{Context, Result, ensure};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

#[derive(Clone, Copy, Debug)]
pub enum Right<'a> {
    Describe(On<'a>),
    Read(On<'a>),
    Write(On<'a>),
}

#[derive(Clone, Copy, Debug)]
pub enum On<'a> {
    Topic(&'a str),
    Group(&'a str),
}

impl Kafka {
    /// It is in force a moment later.
    pub async fn allow(&self, user: &str, right: Right<'_>) -> Result<()> {
        let answer = timeout(Duration::from_secs(10), ask(&self.bootstrap(), &request(user, right)?)).await??;
        // correlation id, throttling, one result: its code, why
        let code = answer.get(12..14).map(|code| i16::from_be_bytes([code[0], code[1]]));
        ensure!(code == Some(0), "allowing {user} {right:?}: {:?}", String::from_utf8_lossy(&answer));
        Ok(())
    }
}

async fn ask(servers: &str, request: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(servers.split(',').next().context("no server")?).await?;
    stream.write_i32(i32::try_from(request.len())?).await?;
    stream.write_all(request).await?;
    let mut answer = vec![0; usize::try_from(stream.read_i32().await?)?];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// CreateAcls, version 1, with one rule.
fn request(user: &str, right: Right<'_>) -> Result<Vec<u8>> {
    let (operation, on) = match right {
        Right::Read(on) => (3, on),
        Right::Write(on) => (4, on),
        Right::Describe(on) => (8, on),
    };
    let (kind, name) = match on {
        On::Topic(name) => (2, name),
        On::Group(name) => (3, name),
    };
    let mut request = vec![0, 30, 0, 1];
    request.extend(7i32.to_be_bytes()); // told again in the answer
    text(&mut request, "test")?;
    request.extend(1i32.to_be_bytes()); // rules
    request.push(kind);
    text(&mut request, name)?;
    request.push(3); // that very name
    text(&mut request, &format!("User:{user}"))?;
    text(&mut request, "*")?; // from any host
    request.extend([operation, 3]); // is allowed
    Ok(request)
}

fn text(request: &mut Vec<u8>, text: &str) -> Result<()> {
    request.extend(i16::try_from(text.len())?.to_be_bytes());
    request.extend(text.as_bytes());
    Ok(())
}
