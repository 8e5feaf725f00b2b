//! As much of an HTTP/1.1 client as a load generator needs, and no more: its own cost must not show.

use std::io;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for a whole answer.
const PATIENCE: Duration = Duration::from_secs(60);
const MAX_HEAD_BYTES: usize = 64 << 10;

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    /// `HOST:PORT`.
    pub(crate) authority: String,
    path: String,
}

impl Url {
    /// Reads `http://HOST:PORT[/PATH]`; the path is `/generate` when there is none.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let rest = text
            .strip_prefix("http://")
            .with_context(|| format!("{text}: only http:// addresses can be measured"))?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        if authority.is_empty() {
            bail!("{text} names no host");
        }
        let authority = if authority.contains(':') {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let path = if path == "/" { "/generate" } else { path };
        Ok(Self {
            authority,
            path: path.to_owned(),
        })
    }

    /// The bytes of a POST of JSON to here.
    pub(crate) fn post(&self, body: &str, key: Option<&str>) -> Vec<u8> {
        let key = key.map_or_else(String::new, |key| {
            format!("Authorization: Bearer {key}\r\n")
        });
        format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\n{key}\
             Content-Length: {}\r\n\r\n{body}",
            self.path,
            self.authority,
            body.len()
        )
        .into_bytes()
    }
}

/// A kept-alive connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// The server closes after this answer.
    last: bool,
}

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body_bytes: u64,
}

impl Connection {
    pub(crate) async fn open(url: &Url) -> io::Result<Self> {
        let stream = TcpStream::connect(&url.authority).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(64 << 10),
            last: false,
        })
    }

    /// Whether another request can be sent.
    pub(crate) fn is_reusable(&self) -> bool {
        !self.last
    }

    /// Sends and reads the whole answer; its body is counted, and kept where `keep` is given.
    pub(crate) async fn ask(
        &mut self,
        request: &[u8],
        keep: Option<&mut Vec<u8>>,
    ) -> io::Result<Reply> {
        self.last = true; // also when this future is dropped half way
        tokio::time::timeout(PATIENCE, self.exchange(request, keep))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn exchange(
        &mut self,
        request: &[u8],
        mut keep: Option<&mut Vec<u8>>,
    ) -> io::Result<Reply> {
        self.stream.write_all(request).await?;
        self.buffer.clear();
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break Head::parse(&self.buffer[..end], end + 4)?;
            }
            if self.buffer.len() > MAX_HEAD_BYTES {
                return Err(io::Error::other("the answer's head has no end"));
            }
            self.fill().await?;
        };
        let mut body_bytes = 0;
        if head.chunked {
            body_bytes = self.read_chunks(head.bytes, keep).await?;
        } else {
            let mut start = head.bytes;
            loop {
                let piece = &self.buffer[start..];
                if let Some(keep) = keep.as_deref_mut() {
                    keep.extend_from_slice(piece);
                }
                body_bytes += piece.len() as u64;
                if body_bytes >= head.length {
                    break;
                }
                start = 0;
                self.buffer.clear();
                self.fill().await?;
            }
        }
        self.last = head.close;
        Ok(Reply {
            status: head.status,
            body_bytes,
        })
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Reads to the last chunk and the empty line after it; trailers are not expected.
    async fn read_chunks(&mut self, at: usize, mut keep: Option<&mut Vec<u8>>) -> io::Result<u64> {
        self.buffer.drain(..at);
        let mut total = 0;
        loop {
            let line = loop {
                match find(&self.buffer, b"\r\n") {
                    Some(end) => break end,
                    None => self.fill().await?,
                }
            };
            let size = std::str::from_utf8(&self.buffer[..line]).ok();
            let size = size
                .and_then(|text| usize::from_str_radix(text.split(';').next()?.trim(), 16).ok());
            let size = size.ok_or_else(|| io::Error::other("a chunk without a size"))?;
            while self.buffer.len() < line + 2 + size + 2 {
                self.fill().await?;
            }
            if let Some(keep) = keep.as_deref_mut() {
                keep.extend_from_slice(&self.buffer[line + 2..line + 2 + size]);
            }
            self.buffer.drain(..line + 2 + size + 2);
            total += size as u64;
            if size == 0 {
                return Ok(total);
            }
        }
    }
}

/// What the head of an answer says about the rest.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    status: u16,
    length: u64,
    chunked: bool,
    close: bool,
    bytes: usize,
}

impl Head {
    fn parse(text: &[u8], bytes: usize) -> io::Result<Self> {
        let wrong = || io::Error::other("the answer is not HTTP/1.1");
        let text = std::str::from_utf8(text).map_err(|_| wrong())?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
        let status = status.and_then(|rest| rest.get(..3)?.parse().ok());
        let mut head = Self {
            status: status.ok_or_else(wrong)?,
            length: 0,
            chunked: false,
            close: false,
            bytes,
        };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.length = value.parse().map_err(|_| wrong())?;
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                head.chunked = value.eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("connection") {
                head.close = value.eq_ignore_ascii_case("close");
            }
        }
        Ok(head)
    }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers every connection's requests with these bytes, one after the other.
    pub(crate) async fn scripted(answers: Vec<&'static str>, delay: Duration) -> Url {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let answers = answers.clone();
                tokio::spawn(async move {
                    let mut buffer = vec![0; 4096];
                    for answer in answers.iter().cycle() {
                        if stream.read(&mut buffer).await.unwrap_or(0) == 0 {
                            break;
                        }
                        tokio::time::sleep(delay).await;
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        Url::parse(&url).unwrap()
    }

    #[test]
    fn addresses() {
        let url = Url::parse("http://127.0.0.1:8000").unwrap();
        assert_eq!(
            (url.authority.as_str(), url.path.as_str()),
            ("127.0.0.1:8000", "/generate")
        );
        let url = Url::parse("http://a/x/y").unwrap();
        assert_eq!(
            (url.authority.as_str(), url.path.as_str()),
            ("a:80", "/x/y")
        );
        assert!(Url::parse("https://a").is_err() && Url::parse("http:///x").is_err());
    }

    #[tokio::test]
    async fn answers_with_a_length_in_chunks_and_to_be_closed() {
        let url = scripted(
            vec![
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
                "HTTP/1.1 429 Too Many\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n",
                "HTTP/1.1 204 None\r\nconnection: close\r\n\r\n",
            ],
            Duration::ZERO,
        )
        .await;
        let request = url.post("{}", None);
        let mut connection = Connection::open(&url).await.unwrap();
        for (status, body) in [(200, "hello"), (429, "abcde")] {
            let mut kept = Vec::new();
            let reply = connection.ask(&request, Some(&mut kept)).await.unwrap();
            assert_eq!((reply.status, kept.as_slice()), (status, body.as_bytes()));
            assert_eq!(reply.body_bytes, body.len() as u64);
            assert!(connection.is_reusable());
        }
        assert_eq!(connection.ask(&request, None).await.unwrap().status, 204);
        assert!(!connection.is_reusable());
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_off_is_an_error() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            let half = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe";
            stream.write_all(half).await.unwrap();
        });
        let mut connection = Connection::open(&url).await.unwrap();
        let request = url.post("{}", None);
        assert!(connection.ask(&request, None).await.is_err());
        assert!(!connection.is_reusable());
    }
}
