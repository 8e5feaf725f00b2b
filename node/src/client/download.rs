//! The finished clip: fetched beside its place, gone on with after a break, checked, renamed.

use std::io::{Seek, Write};
use std::path::Path;

use reqwest::header::{CONTENT_RANGE, ETAG, IF_RANGE, RANGE};
use reqwest::{Method, Response, StatusCode};
use sha2::{Digest, Sha256};

use super::retry::Retry;
use super::{Client, ClientError, Result, Update, Video};
use crate::media::publish::Pending;

/// A file that is not whole yet.
struct Part {
    file: Pending,
    hash: Sha256,
    bytes: u64,
    /// What the server calls the file's content: its SHA-256 in hex, in quotes.
    etag: Option<String>,
}

impl Part {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.file().write_all(bytes);
        written.map_err(|error| self.file.error(error))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn start_over(&mut self) -> Result<()> {
        let file = self.file.file();
        let emptied = file.set_len(0).and_then(|()| file.rewind());
        emptied.map_err(|error| self.file.error(error))?;
        self.hash = Sha256::new();
        self.bytes = 0;
        Ok(())
    }
}

impl Client {
    /// Writes the clip to `output`.
    pub(super) async fn download(
        &self,
        video: &Video,
        output: &Path,
        on: &dyn Fn(Update<'_>),
    ) -> Result<()> {
        let mut part = Part {
            file: Pending::beside(output)?,
            hash: Sha256::new(),
            bytes: 0,
            etag: None,
        };
        let mut retry = Retry::new();
        while let Err(error) = self.fetch(&video.id, &mut part, &mut retry).await {
            self.wait(&mut retry, error, on).await?;
        }
        if let Some(expected) = video.bytes.filter(|&expected| expected != part.bytes) {
            return Err(ClientError::Damaged {
                message: format!("{} bytes came of {expected}", part.bytes),
            });
        }
        let found = hex(&part.hash.finalize());
        let expected = part.etag.as_deref().unwrap_or_default();
        if expected != format!("\"{found}\"") {
            return Err(ClientError::Damaged {
                message: format!("its SHA-256 is {found}, the server says {expected}"),
            });
        }
        part.file.publish()?;
        Ok(())
    }

    /// Fetches what is missing.
    async fn fetch(&self, id: &str, part: &mut Part, retry: &mut Retry) -> Result<()> {
        let mut builder = self.request(Method::GET, &["v1", "videos", id, "content"]);
        if let Some(etag) = part.etag.as_ref().filter(|_| part.bytes > 0) {
            builder = builder
                .header(RANGE, format!("bytes={}-", part.bytes))
                .header(IF_RANGE, etag);
        }
        let mut response = self.send(builder).await?;
        let header = |name| response.headers().get(name)?.to_str().ok();
        let total = match response.status() {
            StatusCode::OK => {
                part.start_over()?;
                part.etag = header(ETAG)
                    // A proxy that packs an answer weakens its tag.
                    .map(|tag| tag.trim_start_matches("W/").to_owned());
                response.content_length()
            }
            StatusCode::PARTIAL_CONTENT => {
                let range = header(CONTENT_RANGE).unwrap_or_default();
                let Some(total) = total_after(range, part.bytes) else {
                    let message =
                        format!("range `{range}` in place of the one from {}", part.bytes);
                    return Err(self.protocol(message));
                };
                Some(total)
            }
            other => return Err(self.protocol(format!("status {other} for a clip"))),
        };
        if part.etag.is_none() {
            return Err(self.protocol("a clip without an ETag to check it by".into()));
        }
        self.copy(&mut response, part, retry).await?;
        match total {
            Some(total) if part.bytes < total => {
                let message = format!("the clip broke off at {} of {total} bytes", part.bytes);
                Err(self.unreachable(message))
            }
            _ => Ok(()),
        }
    }

    async fn copy(
        &self,
        response: &mut Response,
        part: &mut Part,
        retry: &mut Retry,
    ) -> Result<()> {
        while let Some(bytes) = self.chunk(response).await? {
            retry.heard();
            part.write(bytes.as_ref())?;
        }
        Ok(())
    }
}

/// Total length from `bytes START-END/TOTAL`, when the range starts where it was asked to.
fn total_after(range: &str, start: u64) -> Option<u64> {
    let (span, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = span.split_once('-')?;
    (first.parse::<u64>().ok()? == start).then(|| total.parse().ok())?
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(total_after("bytes 5-9/10", 5), Some(10));
        for wrong in ["bytes 4-9/10", "bytes 5-9/*", "bytes */10", "5-9/10", ""] {
            assert_eq!(total_after(wrong, 5), None, "{wrong}");
        }
    }
}
