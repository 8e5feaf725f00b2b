//! `leoma-bench http`: what a request costs besides its clip, against a FastAPI server that does the same.
//!
//! The engines behind both do nothing, so all that is left is overhead: HTTP, JSON, base64, the picture, the
//! queue, the answer. Servers are driven in turns within one run, by one thread that is measured as well.

mod args;
mod load;
mod page;
mod process;
mod result;
mod samples;
mod servers;
mod wire;

use std::io::Write as _;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

pub(crate) use args::HttpArgs;
pub(crate) use page::render;
pub(crate) use result::HttpReport;

use load::{Mode, Outcome, drive};
use process::Tree;
use result::{Overload, Phase, Round, Side};
use samples::{Memory, Numbers};
use servers::Server;
use wire::Connection;

use crate::clock;
use crate::env::{self, Environment};
use crate::markdown;
use crate::report::{Report, SCHEMA};
use crate::run::{note, remove_when_interrupted};

/// Distance between two looks at a server's memory.
const LOOK: Duration = Duration::from_millis(250);
/// Time for a server to become ready and make its first clip.
const READY: Duration = Duration::from_secs(120);
/// Share of the slowest server's throughput at which the open loop drives all of them.
const OPEN_SHARE: f64 = 0.5;

/// Runs what `args` ask for. Progress goes to standard error, the tables to standard output.
///
/// # Errors
/// When a server cannot be had or answers wrongly, and with `--check` when a line is missed.
pub(crate) fn run(args: &HttpArgs) -> Result<()> {
    let work = tempfile::tempdir().context("cannot create a work folder")?;
    remove_when_interrupted(work.path().to_path_buf())?;
    let body = request(args)?;
    let (servers, clip_bytes) = servers(args, &body, work.path())?;
    let versions = servers.iter().rfind(|server| server.versions.is_object());
    let hello = json!({ "versions": versions.map_or(&Value::Null, |server| &server.versions) });
    let environment = Environment::read(env::available_cores(), &hello);

    let requests: Vec<Rc<[u8]>> = servers
        .iter()
        .map(|server| Rc::from(server.url.post(&body, args.api_key.as_deref())))
        .collect();
    let bench = Bench {
        args,
        servers,
        requests,
    };
    let mut http = HttpReport {
        what: format!(
            "POST /generate of {} bytes (64x64 PNG, {} frames, {}), answered with {clip_bytes} bytes; the \
             engine takes {} ms.",
            body.len(),
            args.frames,
            args.resolution,
            1e3 * args.job
        ),
        pair: args.targets.is_empty(),
        job_s: args.job,
        phases: Vec::new(),
        overloads: Vec::new(),
        warnings: Vec::new(),
    };
    if environment.machine.profile != "release" {
        http.warnings.push("this is not a release build".into());
    }
    if environment.machine.load_average > environment.machine.cores as f64 {
        let load = environment.machine.load_average;
        http.warnings
            .push(format!("the load average was {load:.1} at the start"));
    }
    match args.overload {
        Some(times) => http.overloads = bench.overloads(times)?,
        None => http.phases = bench.phases()?,
    }
    save(args, environment, http)
}

fn save(args: &HttpArgs, environment: Environment, http: HttpReport) -> Result<()> {
    let misses = http.misses();
    let label = args
        .label
        .as_deref()
        .map_or_else(|| environment.machine.label(), env::slug);
    let report = Report {
        schema: SCHEMA,
        date: env::today(),
        label: format!("{label}-http"),
        environment,
        measurements: Vec::new(),
        offload: None,
        http: Some(http),
    };
    let path = report.save(&args.out_dir)?;
    let mut stdout = std::io::stdout().lock();
    let tables = markdown::render(std::slice::from_ref(&report));
    writeln!(stdout, "{tables}\n{}", path.display())?;
    if args.check && !misses.is_empty() {
        bail!("lines missed: {}", misses.join(", "));
    }
    Ok(())
}

/// The sampler's six fields, with a picture of 64x64.
fn request(args: &HttpArgs) -> Result<String> {
    let picture = image::RgbImage::from_fn(64, 64, |x, y| {
        image::Rgb([(x * 4) as u8, (y * 4) as u8, ((x ^ y) * 4) as u8])
    });
    let mut png = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut png, image::ImageFormat::Png)?;
    let body = json!({
        "prompt": "A paper boat drifts across a still lake, soft morning light",
        "image": base64(png.get_ref()),
        "fps": 16,
        "frames": args.frames,
        "resolution": args.resolution,
        "fast": true,
    });
    Ok(body.to_string())
}

/// Standard base64; one picture does not justify a dependency.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = (0..3).fold(0u32, |word, i| {
            (word << 8) | u32::from(group.get(i).copied().unwrap_or(0))
        });
        for i in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * i)) as usize & 63];
            text.push(if i <= group.len() {
                letter as char
            } else {
                '='
            });
        }
    }
    text
}

/// Starts what is to be measured and sees that all of it answers with the same clip.
fn servers(args: &HttpArgs, body: &str, work: &Path) -> Result<(Vec<Server>, usize)> {
    if !args.targets.is_empty() {
        let servers: Vec<Server> = args.targets.iter().map(Server::running).collect();
        let mut bytes = 0;
        for server in &servers {
            bytes = first_clip(server, body, args)?.len();
        }
        return Ok((servers, bytes));
    }
    note("starting leoma-node with an engine that does nothing");
    let node = Server::node(args, work)?;
    let clip = first_clip(&node, body, args)?;
    if args.overload.is_some() {
        return Ok((vec![node], clip.len()));
    }
    note("starting FastAPI");
    let file = work.join("clip.mp4");
    std::fs::write(&file, &clip)?;
    let fastapi = Server::fastapi(args, work, &file)?;
    if first_clip(&fastapi, body, args)? != clip {
        bail!("the FastAPI server answers with another clip");
    }
    Ok((vec![node, fastapi], clip.len()))
}

/// The first answer; waits for a server that is not ready yet.
fn first_clip(server: &Server, body: &str, args: &HttpArgs) -> Result<Vec<u8>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let request = server.url.post(body, args.api_key.as_deref());
    let deadline = Instant::now() + READY;
    loop {
        let mut answer = Vec::new();
        let reply = runtime.block_on(async {
            let mut connection = Connection::open(&server.url).await?;
            connection.ask(&request, Some(&mut answer)).await
        });
        let reply = reply.with_context(|| format!("{} does not answer", server.name))?;
        match reply.status {
            200 => return Ok(answer),
            503 if Instant::now() < deadline => std::thread::sleep(LOOK),
            status => {
                let text = String::from_utf8_lossy(&answer);
                bail!("{} answered {status}: {}", server.name, text.trim());
            }
        }
    }
}

/// The servers, and the same request for each.
struct Bench<'a> {
    args: &'a HttpArgs,
    servers: Vec<Server>,
    requests: Vec<Rc<[u8]>>,
}

impl Bench<'_> {
    /// Closed and open loop, or the one that was asked for.
    fn phases(&self) -> Result<Vec<Phase>> {
        let closed = Mode::Closed {
            concurrency: self.args.concurrency.map_or(4, usize::from),
            requests: self.args.requests as usize,
        };
        let open = |rate: f64| Mode::Open {
            rate,
            seconds: self.args.seconds.unwrap_or(3.0),
        };
        if let Some(rate) = self.args.rate {
            return Ok(vec![self.phase(open(rate))?]);
        }
        let closed = self.phase(closed)?;
        if self.args.concurrency.is_some() {
            return Ok(vec![closed]);
        }
        // The same rate for all, and one at which none of them is at its limit.
        let slowest = closed
            .sides
            .iter()
            .map(|side| crate::stats::median(&side.each(Round::throughput)))
            .fold(f64::INFINITY, f64::min);
        let open = self.phase(open((OPEN_SHARE * slowest).round().max(1.0)))?;
        Ok(vec![closed, open])
    }

    fn phase(&self, mode: Mode) -> Result<Phase> {
        let mut sides: Vec<Side> = self
            .servers
            .iter()
            .map(|server| Side {
                name: server.name.clone(),
                rounds: Vec::new(),
                memory: Memory::default(),
            })
            .collect();
        let warmups = usize::from(self.args.warmups);
        for round in 0..warmups + usize::from(self.args.rounds) {
            let mut order: Vec<usize> = (0..self.servers.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for at in order {
                let (found, memory) = self.round(at, mode)?;
                if round < warmups {
                    continue;
                }
                note(&format!(
                    "  {:>3} {:<11} {:>7.0}/s {:>8.3} ms CPU per request, p99 {:>8.3} ms",
                    round + 1 - warmups,
                    self.servers[at].name,
                    found.throughput(),
                    1e3 * found.cpu_per_request(),
                    1e3 * found.overhead(0.99, self.args.job),
                ));
                let side = &mut sides[at];
                side.rounds.push(found);
                side.memory.every_ms = memory.every_ms;
                side.memory.kib.0.extend(memory.kib.0);
            }
        }
        Ok(Phase { mode, sides })
    }

    fn overloads(&self, times: f64) -> Result<Vec<Overload>> {
        (0..self.servers.len())
            .map(|at| self.overload(at, times))
            .collect()
    }

    /// Capacity first, then far more than it, the beginning not counted.
    fn overload(&self, at: usize, times: f64) -> Result<Overload> {
        let requests = (3.0 / self.args.job.max(0.003)) as usize;
        let closed = |requests| Mode::Closed {
            concurrency: 4,
            requests,
        };
        self.round(at, closed(requests.min(100)))?;
        let capacity = self.round(at, closed(requests))?.0.throughput();
        let seconds = self.args.seconds.unwrap_or(60.0);
        let open = |seconds: f64| Mode::Open {
            rate: times * capacity,
            seconds,
        };
        let name = self.servers[at].name.clone();
        note(&format!(
            "{name}: {capacity:.1} clips/s; {:.0} requests/s",
            times * capacity
        ));
        self.round(at, open((seconds / 4.0).min(15.0)))?;
        let (round, memory) = self.round(at, open(seconds))?;
        Ok(Overload {
            name,
            capacity,
            times,
            round,
            memory,
        })
    }

    fn round(&self, at: usize, mode: Mode) -> Result<(Round, Memory)> {
        let server = &self.servers[at];
        let watch = Watch::start(server.tree);
        let before = (
            server.tree.and_then(Tree::cpu_seconds),
            clock::cpu_seconds(),
        );
        let outcome: Outcome = drive(&server.url, &self.requests[at], mode)
            .with_context(|| format!("{} stopped answering", server.name))?;
        let client_cpu_s = clock::cpu_seconds() - before.1;
        let after = server.tree.and_then(Tree::cpu_seconds);
        let cpu_s = before.0.zip(after).map(|(before, after)| after - before);
        let round = Round {
            cpu_s,
            client_cpu_s,
            outcome,
        };
        Ok((round, watch.end()))
    }
}

/// Looks at a server's memory from a thread of its own.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<u32>>,
}

impl Watch {
    fn start(tree: Option<Tree>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut kib = Vec::new();
            while let Some(bytes) = tree.and_then(Tree::resident_bytes) {
                kib.push((bytes / 1024).min(u64::from(u32::MAX)) as u32);
                if seen.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::park_timeout(LOOK);
            }
            kib
        });
        Self { stop, thread }
    }

    fn end(self) -> Memory {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        Memory {
            every_ms: LOOK.as_millis() as u32,
            kib: Numbers(self.thread.join().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_pads() {
        for (text, encoded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(base64(text.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xff, 0xef, 0xbe]), "/+++");
    }
}
