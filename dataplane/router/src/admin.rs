//! Metrics over plain HTTP on loopback, read only: `GET /metrics` for Prometheus.
//!
//! Enough of HTTP/1.1 for a scraper and curl, one request per connection,
//! everything bounded. Refuses to know what a metric means; [`exposition`] does.

pub mod exposition;

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// A request head that is longer is refused (bytes).
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// A request and its answer must be done within this.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests under way at a time.
const EXCHANGES_MAX: usize = 16;

/// Someone wants the metrics' text.
pub type Scrape = oneshot::Sender<String>;

/// Serves `listener` until the receiver of `scrapes` is dropped.
pub async fn serve(listener: TcpListener, scrapes: mpsc::Sender<Scrape>) {
    static EXCHANGES: Semaphore = Semaphore::const_new(EXCHANGES_MAX);
    loop {
        let permit = EXCHANGES.acquire().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors: there will be some again when connections close.
                tracing::warn!(event = "admin_accept_failed", %error);
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if scrapes.is_closed() {
            return;
        }
        let scrapes = scrapes.clone();
        tokio::spawn(async move {
            let exchange = tokio::time::timeout(EXCHANGE_TIMEOUT, exchange(stream, scrapes));
            if let Ok(Err(error)) = exchange.await {
                tracing::debug!(event = "admin_request_failed", %error);
            }
            drop(permit);
        });
    }
}

async fn exchange(mut stream: TcpStream, scrapes: mpsc::Sender<Scrape>) -> std::io::Result<()> {
    let head = read_head(&mut stream).await?;
    let (status, content_type, body) = answer(&head, &scrapes).await;
    let header = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(header.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// The bytes up to the empty line, or as many as are taken.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(1024);
    while head.len() < HEAD_BYTES_MAX && !head.windows(4).any(|w| w == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(head)
}

const TEXT: &str = "text/plain; charset=utf-8";
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

async fn answer(
    head: &[u8],
    scrapes: &mpsc::Sender<Scrape>,
) -> (&'static str, &'static str, String) {
    match request(head) {
        Some(("GET", "/metrics")) => {
            let (sender, text) = oneshot::channel();
            let asked = scrapes.send(sender).await.is_ok();
            match text.await {
                Ok(text) if asked => ("200 OK", OPENMETRICS, text),
                _ => (
                    "503 Service Unavailable",
                    TEXT,
                    "the router is ending\n".into(),
                ),
            }
        }
        Some(("GET", "/")) => (
            "200 OK",
            TEXT,
            "caplane-router: metrics are at /metrics\n".into(),
        ),
        Some(("GET", _)) => (
            "404 Not Found",
            TEXT,
            "there is only /metrics here\n".into(),
        ),
        Some(_) => (
            "405 Method Not Allowed",
            TEXT,
            "only GET is taken here\n".into(),
        ),
        None => (
            "400 Bad Request",
            TEXT,
            "this is no HTTP/1.1 request of at most 8 KiB\n".into(),
        ),
    }
}

/// Method and path (without query) of a request head.
fn request(head: &[u8]) -> Option<(&str, &str)> {
    let end = head.windows(4).position(|w| w == b"\r\n\r\n")?;
    let text = std::str::from_utf8(&head[..end]).ok()?;
    let mut words = text.lines().next()?.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    if !version.starts_with("HTTP/1.") || words.next().is_some() {
        return None;
    }
    let path = target.split('?').next()?;
    Some((method, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_and_nonsense_is_not() {
        assert_eq!(
            request(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"),
            Some(("GET", "/metrics"))
        );
        for bad in [
            &b"GET /metrics HTTP/1.1\r\n"[..],
            b"GET /metrics\r\n\r\n",
            b"\xff\xfe / HTTP/1.1\r\n\r\n",
            b"\r\n\r\n",
            b"GET / HTTP/2\r\n\r\n",
        ] {
            assert_eq!(request(bad), None, "{bad:?}");
        }
    }

    async fn ask(request: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, mut scrapes) = mpsc::channel::<Scrape>(1);
        tokio::spawn(serve(listener, sender));
        tokio::spawn(async move {
            while let Some(scrape) = scrapes.recv().await {
                scrape.send("router_up 1\n# EOF\n".into()).unwrap();
            }
        });
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn metrics_are_served_and_nothing_else() {
        let metrics = ask(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
        assert!(metrics.ends_with("# EOF\n"), "{metrics}");
        let missing = ask(b"GET /x HTTP/1.1\r\n\r\n").await;
        assert!(missing.starts_with("HTTP/1.1 404 "), "{missing}");
        let post = ask(b"POST /metrics HTTP/1.1\r\n\r\n").await;
        assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    }
}
