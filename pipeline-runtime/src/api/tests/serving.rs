//! Over a real connection.

use super::*;
use fakes::Fault;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<usize>,
}

async fn start(router: Router, limits: Limits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let ended = tokio::spawn(serve(listener, router, limits, async {
        let _ = stopped.await;
    }));
    Server { address, stop: Some(stop), ended }
}

impl Server {
    fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }
}

fn head(length: usize) -> String {
    format!(
        "POST /orders HTTP/1.1\r\nHost: test\r\nX-API-Key: secret\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// Reads one answer: its head and its body.
async fn answer_of(stream: &mut TcpStream) -> (String, String) {
    let mut text = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).await.unwrap();
        text.extend_from_slice(&piece[..n]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = whole.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")).unwrap().parse().unwrap();
            if body.len() >= length {
                return (head.to_owned(), body.to_owned());
            }
        }
        assert!(n > 0, "the connection ended after {whole:?}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_answered_while_the_client_still_writes() {
    let process = process();
    let server = start(process.router.clone(), Limits::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let body = vec![b' '; 11 << 20];
    stream.write_all(head(body.len()).as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let (head_of, body_of) = answer_of(&mut stream).await;
    assert!(head_of.starts_with("HTTP/1.1 413"), "{head_of}");
    assert!(body_of.contains("payload_too_large"), "{body_of}");
    // And the connection can be used further.
    let order = order().to_string();
    stream.write_all(format!("{}{order}", head(order.len())).as_bytes()).await.unwrap();
    assert!(answer_of(&mut stream).await.0.starts_with("HTTP/1.1 202"));
}

#[tokio::test]
async fn what_is_refused_by_its_head_is_answered_at_once_and_nobody_is_asked_for_the_body() {
    let process = process();
    let server = start(process.router.clone(), Limits::default()).await;
    let large = head(11 << 20);
    let foreign = head(100).replace("secret", "stolen");
    let text = head(100).replace("application/json", "text/plain");
    // Not one byte of a body is sent here: who waits for it, waits for as long as refused bodies are read.
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(large.as_bytes()).await.unwrap();
    let (answer, _) = tokio::time::timeout(super::body::LARGE_DRAIN.1 / 2, answer_of(&mut stream)).await.expect("it waits for the body");
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    for (head, status) in [(large, "413"), (foreign, "401"), (text, "415")] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(head.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n").as_bytes()).await.unwrap();
        let (answer, _) = answer_of(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
    // Who is welcome is asked to go on.
    let order = order().to_string();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(head(order.len()).replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n").as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(order.as_bytes()).await.unwrap();
    assert!(answer_of(&mut stream).await.0.starts_with("HTTP/1.1 202"));
}

#[tokio::test]
async fn a_connection_is_kept_for_further_requests() {
    let process = process();
    let server = start(process.router.clone(), Limits::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    for _ in 0..3 {
        let order = order_without_id().to_string();
        stream.write_all(format!("{}{order}", head(order.len())).as_bytes()).await.unwrap();
        assert!(answer_of(&mut stream).await.0.starts_with("HTTP/1.1 202"));
    }
    assert_eq!(process.broker.written().len(), 3);
}

#[tokio::test]
async fn who_takes_too_long_over_the_headers_is_disconnected() {
    let limits = Limits { headers_within: Duration::from_millis(50), ..Limits::default() };
    let server = start(process().router.clone(), limits).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"POST /orders HTTP/1.1\r\nHost: te").await.unwrap();
    let mut rest = Vec::new();
    // Ends: the server has closed the connection.
    let _ = stream.read_to_end(&mut rest).await;
    assert!(!String::from_utf8_lossy(&rest).contains("202"));
}

/// The API with an answer in it that no kernel keeps whole for a client, and the one place for it.
fn with_large_answer() -> (Router, Arc<Semaphore>) {
    let room = Arc::new(Semaphore::new(1));
    let places = room.clone();
    let large = move || async move {
        let place = places.try_acquire_owned().unwrap();
        respond(&RequestId::random(), Answer::json(StatusCode::OK, &"x".repeat(32 << 20)).map(|answer| answer.in_place(place)))
    };
    (process().router.route("/large", get(large)), room)
}

/// A client that has seen the beginning of the large answer, and nothing else of it.
async fn begun(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    stream
}

async fn health(server: &Server) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
    let (head, _) = answer_of(&mut stream).await;
    (stream, head)
}

#[tokio::test]
async fn who_never_reads_is_disconnected_and_its_places_are_free_again() {
    let (router, room) = with_large_answer();
    let limits = Limits { connections: 1, taken_within: Duration::from_millis(50), ..Limits::default() };
    let server = start(router, limits).await;
    let _unread = begun(&server).await;
    let (_, head) = tokio::time::timeout(Duration::from_secs(10), health(&server)).await.expect("it is still waited for");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(room.available_permits(), 1, "and nothing of its answer is kept");
}

#[tokio::test]
async fn an_answer_has_its_place_until_it_is_taken_whole() {
    let (router, room) = with_large_answer();
    let server = start(router, Limits::default()).await;
    let mut stream = begun(&server).await;
    assert_eq!(room.available_permits(), 0, "most of it still lies here");
    tokio::io::copy(&mut (&mut stream).take(32 << 20), &mut tokio::io::sink()).await.unwrap();
    // The last bytes are the kernel's: the connection itself stays.
    let back = tokio::time::timeout(Duration::from_secs(10), room.acquire()).await;
    assert!(back.is_ok(), "it was taken, and its place is not given back");
}

#[tokio::test]
async fn where_places_are_few_nobody_keeps_one_between_two_questions() {
    let server = start(process().router, Limits { connections: 1, keep_alive: false, ..Limits::default() }).await;
    let (_kept, first) = health(&server).await;
    let second = tokio::time::timeout(Duration::from_secs(5), health(&server)).await.expect("the first has the only place");
    assert!(first.contains("connection: close") && second.1.starts_with("HTTP/1.1 200"), "{first}\n{}", second.1);
}

#[tokio::test]
async fn a_request_in_flight_is_answered_before_the_server_ends() {
    let process = process();
    process.broker.fail(Fault::Hold);
    let mut server = start(process.router.clone(), Limits::default()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let order = order().to_string();
    stream.write_all(format!("{}{order}", head(order.len())).as_bytes()).await.unwrap();
    process.broker.arrived.notified().await;
    server.stop();
    while TcpStream::connect(server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    process.broker.answer_held();
    let (head, _) = answer_of(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 202"), "{head}");
    assert_eq!(server.ended.await.unwrap(), 0);
}

#[tokio::test]
async fn a_request_that_does_not_end_within_the_grace_is_cut_off() {
    let process = process();
    process.broker.fail(Fault::Hold);
    let mut server = start(process.router.clone(), Limits { grace: Duration::from_millis(50), ..Limits::default() }).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let order = order().to_string();
    stream.write_all(format!("{}{order}", head(order.len())).as_bytes()).await.unwrap();
    process.broker.arrived.notified().await;
    server.stop();
    assert_eq!(server.ended.await.unwrap(), 1);
}

#[tokio::test]
async fn beyond_its_connections_a_server_lets_others_wait() {
    let process = process();
    let server = start(process.router.clone(), Limits { connections: 1, ..Limits::default() }).await;
    let ask = async |stream: &mut TcpStream| {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n").await.unwrap();
        answer_of(stream).await.0
    };
    let mut first = TcpStream::connect(server.address).await.unwrap();
    assert!(ask(&mut first).await.starts_with("HTTP/1.1 200"));
    let mut second = TcpStream::connect(server.address).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(100), ask(&mut second)).await;
    assert!(waiting.is_err(), "the second connection was served beside the first");
    drop(first);
    assert!(answer_of(&mut second).await.0.starts_with("HTTP/1.1 200"));
}
