//! `leoma-node generate --host URL`: the clip is made by a server.

use std::cell::RefCell;
use std::io::IsTerminal;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Format, GenerateArgs, check_writable, read_image};
use crate::Error;
use crate::cli::progress::Bars;
use crate::client::{Client, Update, Video};

/// Longest key file that is read.
const MAX_KEY_BYTES: u64 = 4096;

/// Options that are about the machine that computes, and why a request cannot carry them.
const LOCAL_ONLY: [(&str, &str); 18] = [
    ("model", "the server has its own checkpoint"),
    ("revision", "the server has its own checkpoint"),
    ("transformer", "the server has its own checkpoint"),
    ("transformer_2", "the server has its own checkpoint"),
    ("vae", "the server has its own checkpoint"),
    ("text_encoder", "the server has its own checkpoint"),
    ("lora", "the server was started with its own"),
    ("dtype", "the server was started with its own"),
    ("rounding", "the server was started with its own"),
    ("device", "the server was started with its own"),
    ("offload", "the server was started with its own"),
    ("text_encoder_device", "the server was started with its own"),
    ("memory_limit", "the server was started with its own"),
    (
        "plan",
        "it is about the machine that computes; run it where the checkpoint is",
    ),
    ("dump", "tensors do not travel; run where the checkpoint is"),
    (
        "frames_dir",
        "a server sends the clip only; take the frames from it",
    ),
    (
        "noise",
        "noise files do not travel; use --seed and --noise-source",
    ),
    (
        "print_config",
        "the server decides; --format json prints what it used",
    ),
];

#[allow(clippy::print_stdout, clippy::print_stderr)]
pub(super) fn run(args: &GenerateArgs, host: &str) -> Result<()> {
    let start = Instant::now();
    refuse_local_options(args)?;
    let request = request(args)?;
    let client = Client::new(host, key(args)?.as_ref())?;
    check_writable(&args.output)?;
    if client.shows_key() {
        eprintln!("warning: the key goes to {host} unencrypted; use https");
    }

    let visible = !args.no_progress && std::io::stderr().is_terminal();
    let bars = RefCell::new(Bars::new(visible));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot prepare connections")?;
    let video = runtime.block_on(async {
        let interrupted = interrupted().context("cannot watch for Ctrl-C")?;
        let on = |update: Update<'_>| show(&mut bars.borrow_mut(), update);
        let work = client.generate(&request, &args.output, &on, interrupted);
        Ok::<Video, anyhow::Error>(work.await?)
    })?;
    bars.borrow_mut().finish();
    for warning in changes(&request, &video.parameters) {
        eprintln!("warning: {warning}");
    }
    match args.format {
        Format::Json => {
            let object = json!({
                "output": args.output,
                "seed": video.parameters.get("seed"),
                "parameters": video.parameters,
                "stages": video.timings,
                "host": host,
                "id": video.id,
                "model": video.model,
            });
            println!("{object}");
        }
        Format::Text => {
            println!("{}", args.output.display());
            let number = |name: &str| video.parameters.get(name).and_then(Value::as_u64);
            eprintln!(
                "{} frames of {}x{} in {:.1} s by {host} ({})",
                number("num_frames").unwrap_or(0),
                number("width").unwrap_or(0),
                number("height").unwrap_or(0),
                start.elapsed().as_secs_f64(),
                video.id,
            );
        }
    }
    Ok(())
}

/// What was typed and would be ignored is refused. The environment may be the server's own.
fn refuse_local_options(args: &GenerateArgs) -> Result<(), Error> {
    let typed = LOCAL_ONLY.iter().find(|(id, _)| args.origins.typed(id));
    match typed {
        None => Ok(()),
        Some((id, why)) => Err(Error::caller(
            *id,
            format!(
                "--{} cannot be used with a server (--host, LEOMA_NODE_REMOTE): {why}",
                id.replace('_', "-")
            ),
        )),
    }
}

/// The options as the server's fields: what was left open stays open there.
fn request(args: &GenerateArgs) -> Result<Value, Error> {
    let mut fields = Map::new();
    let mut set = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            fields.insert(name.to_owned(), value);
        }
    };
    set("prompt", Some(args.prompt.as_str().into()));
    set(
        "negative_prompt",
        args.negative_prompt.as_deref().map(Value::from),
    );
    let image = args.image.as_deref().map(read_image).transpose()?;
    set("image", image.map(|bytes| STANDARD.encode(bytes).into()));
    set("num_frames", args.num_frames.map(Value::from));
    set("height", args.height.map(Value::from));
    set("width", args.width.map(Value::from));
    set("fps", args.fps.map(Value::from));
    set(
        "num_inference_steps",
        args.num_inference_steps.map(Value::from),
    );
    for (name, value) in [
        ("guidance_scale", args.guidance_scale),
        ("guidance_scale_2", args.guidance_scale_2),
        ("flow_shift", args.flow_shift),
        ("boundary_ratio", args.boundary_ratio),
    ] {
        // JSON has no word for these; sent as null they would mean "not given".
        if let Some(value) = value.filter(|value| !value.is_finite()) {
            return Err(Error::caller(
                name,
                format!("{value} is not a finite number"),
            ));
        }
        set(name, value.map(Value::from));
    }
    set(
        "scheduler",
        args.scheduler.map(|kind| kind.to_string().into()),
    );
    set("seed", args.seed.map(Value::from));
    let noise_source = args.noise_source.as_ref();
    set(
        "noise_source",
        noise_source.map(|source| source.to_string().into()),
    );
    set("crf", args.crf.map(Value::from));
    if args.origins.chosen("preset") {
        set("preset", args.preset.map(|preset| preset.name().into()));
    }
    Ok(Value::Object(fields))
}

/// The key of the file, else of the environment.
fn key(args: &GenerateArgs) -> Result<Option<SecretString>, Error> {
    match &args.api_key_file {
        Some(path) => read_key(path).map(Some),
        None => Ok(args.api_key.clone()),
    }
}

fn read_key(path: &Path) -> Result<SecretString, Error> {
    let wrong = |why: String| Error::caller("api_key_file", format!("{} {why}", path.display()));
    let bytes = std::fs::metadata(path).map(|file| file.len());
    let text = match bytes {
        Ok(bytes) if bytes > MAX_KEY_BYTES => {
            return Err(wrong(format!("has {bytes} bytes; a key has fewer")));
        }
        _ => std::fs::read_to_string(path),
    };
    let text = text.map_err(|error| wrong(format!("cannot be read: {error}")))?;
    match text.trim() {
        "" => Err(wrong("is empty; write the server's key into it".into())),
        key => Ok(SecretString::from(key)),
    }
}

/// Resolves at the first SIGINT or SIGTERM; the second one ends the process at once.
fn interrupted() -> std::io::Result<impl Future<Output = ()>> {
    let mut signals = [
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    ];
    Ok(async move {
        next(&mut signals).await;
        tokio::spawn(async move {
            next(&mut signals).await;
            #[expect(
                clippy::exit,
                reason = "asked twice to stop: nothing is waited for any more"
            )]
            std::process::exit(130);
        });
    })
}

async fn next([interrupt, terminate]: &mut [Signal; 2]) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

fn show(bars: &mut Bars, update: Update<'_>) {
    match update {
        Update::Waiting(Some(0)) => bars.waiting("next to run".into()),
        Update::Waiting(Some(before)) => bars.waiting(format!("{before} before it")),
        Update::Waiting(None) => bars.waiting("waiting".into()),
        Update::Stage { name, done, total } => bars.progress(&name.replace('_', " "), done, total),
        Update::Requeued(reason) => bars.note(&format!("warning: the job starts over: {reason}")),
        Update::Retrying(error, wait) => bars.note(&format!(
            "warning: {error}; trying again in {:.1} s",
            wait.as_secs_f64()
        )),
        Update::NotCancelled(id, error) => bars.note(&format!(
            "warning: {id} could not be cancelled and may still run: {error}"
        )),
    }
}

/// What the server made otherwise than asked.
fn changes(request: &Value, made: &Map<String, Value>) -> Vec<String> {
    [
        "num_frames",
        "height",
        "width",
        "fps",
        "num_inference_steps",
    ]
    .into_iter()
    .filter_map(|name| {
        let asked = request.get(name)?.as_u64()?;
        let made = made.get(name)?.as_u64()?;
        (made != asked).then(|| format!("{name}: asked for {asked}, made {made}"))
    })
    .collect()
}
