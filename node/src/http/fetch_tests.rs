#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, VecDeque};
use std::io::Read;
use std::net::TcpListener;
use std::sync::Mutex;

use futures_util::stream;

use super::*;

/// Answers in the order given, the last one for ever; counts.
#[derive(Default)]
struct FakeResolver {
    answers: Mutex<HashMap<String, VecDeque<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
}

impl FakeResolver {
    fn set(&self, host: &str, answers: &[&[&str]]) {
        let parse = |list: &&[&str]| list.iter().map(|ip| ip.parse().unwrap()).collect();
        let answers = answers.iter().map(parse).collect();
        self.answers.lock().unwrap().insert(host.into(), answers);
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Resolver for FakeResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        self.asked.lock().unwrap().push(host.to_owned());
        let mut answers = self.answers.lock().unwrap();
        let found = match answers.get_mut(host) {
            None => Err(io::Error::other("no such name")),
            Some(left) if left.len() > 1 => Ok(left.pop_front().unwrap()),
            Some(left) => Ok(left[0].clone()),
        };
        Box::pin(std::future::ready(found))
    }
}

#[derive(Clone)]
enum Script {
    Bytes(Vec<u8>),
    /// Pieces of a thousand bytes, the length told beforehand or not, then the end or a break.
    Pieces {
        count: usize,
        told: Option<u64>,
        breaks: bool,
    },
    To(u16, &'static str),
    Status(u16),
    Hangs,
    HangsInBody,
    Broken,
}

/// Plays the hosts; records who was connected to, and where.
#[derive(Default)]
struct FakeTransport {
    scripts: Mutex<HashMap<&'static str, Script>>,
    connected: Mutex<Vec<(String, Vec<String>)>>,
}

impl Transport for FakeTransport {
    fn get(
        &self,
        target: Target,
        addresses: Vec<IpAddr>,
    ) -> BoxFuture<'static, Result<Answer, Broken>> {
        let addresses = addresses.iter().map(IpAddr::to_string).collect();
        let mut url = target.url;
        url.set_fragment(None); // never sent
        let url = url.to_string();
        self.connected
            .lock()
            .unwrap()
            .push((url.clone(), addresses));
        let script = self.scripts.lock().unwrap()[&*url].clone();
        let answer = |status: u16, location: Option<&str>, body| Answer {
            status: StatusCode::from_u16(status).unwrap(),
            location: location.map(str::to_owned),
            content_length: None,
            body,
        };
        let answer = match script {
            Script::Bytes(bytes) => {
                let once = stream::once(async move { Ok(Bytes::from(bytes)) });
                answer(200, None, once.boxed())
            }
            Script::Pieces {
                count,
                told,
                breaks,
            } => {
                let piece = Bytes::from(vec![1; 1000]);
                let pieces = stream::iter((0..count).map(move |_| Ok(piece.clone())));
                let end = stream::iter(breaks.then_some(Err(Broken)));
                Answer {
                    content_length: told,
                    ..answer(200, None, pieces.chain(end).boxed())
                }
            }
            Script::To(status, location) => answer(status, Some(location), stream::empty().boxed()),
            Script::Status(status) => answer(status, None, stream::empty().boxed()),
            Script::Hangs => return Box::pin(std::future::pending()),
            Script::HangsInBody => answer(200, None, stream::pending().boxed()),
            Script::Broken => return Box::pin(std::future::ready(Err(Broken))),
        };
        Box::pin(std::future::ready(Ok(answer)))
    }
}

struct Net {
    resolver: Arc<FakeResolver>,
    transport: Arc<FakeTransport>,
    fetcher: Fetcher,
}

impl Net {
    fn new(allowed_hosts: &[&str]) -> Self {
        let resolver = Arc::new(FakeResolver::default());
        resolver.set("a.example", &[&["93.184.216.34"]]);
        resolver.set("b.example", &[&["2606:4700::1", "1.1.1.1"]]);
        resolver.set("private.example", &[&["10.0.0.7"]]);
        let transport = Arc::new(FakeTransport::default());
        let options = FetchOptions {
            allowed_hosts: allowed_hosts.iter().map(|&host| host.into()).collect(),
            max_bytes: 10_000,
            timeout: Duration::from_secs(60),
        };
        let fetcher = Fetcher::over(options, resolver.clone(), transport.clone()).unwrap();
        Self {
            resolver,
            transport,
            fetcher,
        }
    }

    fn script(self, url: &'static str, script: Script) -> Self {
        self.transport.scripts.lock().unwrap().insert(url, script);
        self
    }

    async fn fetch(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        self.fetcher.fetch(url).await
    }

    fn connected(&self) -> Vec<(String, Vec<String>)> {
        self.transport.connected.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn urls_are_refused_by_rule_before_anything_is_asked() {
    let address = |name: &str| format!("not public ({name}");
    let (loopback, private) = (address("loopback, 127"), address("private, 10"));
    let metadata = address("link-local and cloud metadata");
    let mapped = &loopback;
    let table = [
        ("", "not a valid URL"),
        ("picture.png", "not a valid URL"),
        ("/etc/passwd", "not a valid URL"),
        ("//a.example/x", "not a valid URL"),
        ("https://", "not a valid URL"),
        ("https:///", "not a valid URL"),
        ("https://a b/", "not a valid URL"),
        ("https://[::1/", "not a valid URL"),
        ("https://[fe80::1%25eth0]/", "not a valid URL"),
        ("https://a.example:99999/", "not a valid URL"),
        ("https://1.2.3.4.5/", "not a valid URL"),
        ("https://256.1.1.1/", "not a valid URL"),
        ("http://a.example/x", "only https"),
        ("HTTP://a.example/x", "only https"),
        ("file:///etc/passwd", "only https"),
        ("ftp://a.example/", "only https"),
        ("gopher://a.example/", "only https"),
        ("data:image/png;base64,AAAA", "only https"),
        ("javascript:alert(1)", "only https"),
        ("blob:https://a.example/x", "only https"),
        ("ws://a.example/", "only https"),
        ("https://user@a.example/", "user name"),
        ("https://:secret@a.example/", "user name"),
        ("https://a.example@127.0.0.1/", "user name"),
        ("https://a.example:80/", "port 443"),
        ("https://a.example:8443/", "port 443"),
        ("https://127.0.0.1:22/", "port 443"),
        ("https://127.0.0.1/", &*loopback),
        ("https://127.0.0.1:443/", &*loopback),
        ("https://127.1/", &*loopback),
        ("https://127.0.0.1./", &*loopback),
        ("https://2130706433/", &*loopback),
        ("https://0x7f000001/", &*loopback),
        ("https://0x7f.1/", &*loopback),
        ("https://0177.0.0.1/", &*loopback),
        ("https://017700000001/", &*loopback),
        ("https://%31%32%37.0.0.1/", &*loopback),
        ("https://１２７.0.0.1/", &*loopback),
        ("https://127。0。0。1/", &*loopback),
        ("https:127.0.0.1/", &*loopback),
        ("https:\\\\127.0.0.1\\", &*loopback),
        (" https://127.0.0.1/ ", &*loopback),
        ("https://10.1.2.3/", &*private),
        ("https://167772161/", &*private),
        ("https://012.0.0.1/", &*private),
        ("https://169.254.169.254/latest/meta-data", &*metadata),
        ("https://2852039166/", &*metadata),
        ("https://0xA9FEA9FE/", &*metadata),
        ("https://0/", "this network"),
        ("https://0.0.0.0/", "this network"),
        ("https://100.100.100.200/", "carrier-grade NAT"),
        ("https://192.168.0.1/", "private, 192.168"),
        ("https://172.20.0.1/", "private, 172.16"),
        ("https://198.18.0.1/", "benchmarks"),
        ("https://224.0.0.1/", "multicast"),
        ("https://255.255.255.255/", "reserved"),
        ("https://4294967295/", "reserved"),
        ("https://[::]/", "unspecified"),
        ("https://[::1]/", "loopback, ::1"),
        ("https://[0:0::0:1]:443/", "loopback, ::1"),
        ("https://[::ffff:127.0.0.1]/", mapped),
        ("https://[::ffff:7f00:1]/", mapped),
        ("https://[::127.0.0.1]/", mapped),
        ("https://[::ffff:a9fe:a9fe]/", &*metadata),
        ("https://[64:ff9b::10.0.0.1]/", "NAT64"),
        ("https://[64:ff9b::8.8.8.8]/", "NAT64"),
        ("https://[64:ff9b:1::1]/", "local NAT64"),
        ("https://[2002:7f00:1::]/", "6to4"),
        ("https://[2001:0:1::1]/", "Teredo"),
        ("https://[fd00:ec2::254]/", "private, fc00"),
        ("https://[fe80::1]/", "link-local, fe80"),
        ("https://[fec0::1]/", "site-local"),
        ("https://[ff02::1]/", "multicast"),
        ("https://[2001:db8::1]/", "documentation"),
        ("https://[3fff::1]/", "documentation"),
        ("https://[100::1]/", "discard"),
        ("https://[5f00::1]/", "segment routing"),
        ("https://[4000::1]/", "outside 2000::/3"),
    ];
    let net = Net::new(&[]);
    for (url, rule) in table {
        let error = net.fetch(url).await.unwrap_err();
        assert!(
            matches!(error, FetchError::Refused { .. }),
            "{url}: {error}"
        );
        assert!(error.to_string().contains(rule), "{url}: {error}");
        assert!(!error.to_string().contains("secret"), "{error}");
        // As a target of a redirect it is no better; what is a relative one there is another matter.
        let from = net.fetcher.check("https://a.example/dir/x").unwrap();
        if rule != "not a valid URL" && url != "https:127.0.0.1/" {
            let step = net.fetcher.step(&from, StatusCode::FOUND, Some(url));
            let again = step.unwrap_err();
            assert!(again.to_string().contains(rule), "{url}: {again}");
        }
    }
    assert!(net.resolver.asked().is_empty());
    assert!(net.connected().is_empty());
    let long = format!("https://a.example/{}", "x".repeat(5000));
    let host = format!("https://{}example/", "a.".repeat(200));
    for url in [long, host] {
        let error = net.fetch(&url).await.unwrap_err().to_string();
        assert!(error.contains("too long") && error.len() < 200, "{error}");
    }
}

#[tokio::test]
async fn hosts_are_refused_by_any_address_that_is_not_public() {
    for answer in [
        &["127.0.0.1"][..],
        &["::1"],
        &["10.0.0.7"],
        &["169.254.169.254"],
        &["::ffff:192.168.1.1"],
        &["93.184.216.34", "10.0.0.7"],
        &["10.0.0.7", "93.184.216.34"],
        &["93.184.216.34", "2606:4700::1", "fd00::1"],
        &["64:ff9b::5db8:d822"],
    ] {
        let net = Net::new(&[]);
        net.resolver.set("a.example", &[answer]);
        let error = net
            .fetch("https://a.example/sig?token=s3")
            .await
            .unwrap_err();
        let FetchError::Refused { host, rule } = &error else {
            panic!("{answer:?}: {error}");
        };
        assert_eq!(host, "a.example");
        assert!(matches!(rule, Rule::Address(_)), "{answer:?}");
        let message = error.to_string();
        assert!(
            message.contains("a.example") && !message.contains("s3"),
            "{message}"
        );
        assert!(net.connected().is_empty());
    }
    let net = Net::new(&[]);
    net.resolver.set("a.example", &[&[]]);
    for (url, expected) in [
        ("https://a.example/", "no address"),
        ("https://unknown.example/", "cannot be resolved"),
    ] {
        let error = net.fetch(url).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn connections_go_to_the_checked_addresses_and_names_are_asked_once() {
    let net = Net::new(&[])
        .script("https://a.example/x", Script::Bytes(vec![7; 10]))
        .script("https://b.example/x?y", Script::Bytes(vec![8; 10_000]))
        .script("https://93.184.216.34/x", Script::Bytes(Vec::new()));
    // Rebinding: what the name server says next time must not matter.
    net.resolver
        .set("a.example", &[&["93.184.216.34"], &["127.0.0.1"]]);
    assert_eq!(
        net.fetch("https://a.example/x#part").await.unwrap().len(),
        10
    );
    assert_eq!(
        net.fetch("https://B.Example:443/x?y").await.unwrap().len(),
        10_000
    );
    assert_eq!(net.fetch("https://93.184.216.34/x").await.unwrap().len(), 0);
    assert_eq!(net.resolver.asked(), ["a.example", "b.example"]);
    let places: Vec<_> = net.connected().into_iter().map(|(_, to)| to).collect();
    let expected: [&[&str]; 3] = [
        &["93.184.216.34"],
        &["2606:4700::1", "1.1.1.1"],
        &["93.184.216.34"],
    ];
    assert_eq!(places, expected);
    // The second fetch asks anew and is refused.
    assert!(net.fetch("https://a.example/x").await.is_err());
    assert_eq!(net.connected().len(), 3);
}

#[tokio::test]
async fn redirects_are_checked_from_the_start() {
    let net = Net::new(&[])
        .script("https://a.example/1", Script::To(302, "/2"))
        .script("https://a.example/2", Script::To(301, "//b.example/3"))
        .script(
            "https://b.example/3",
            Script::To(308, "https://a.example/4"),
        )
        .script("https://a.example/4", Script::Bytes(vec![1, 2, 3]))
        .script("https://a.example/0", Script::To(307, "/1"))
        .script("https://a.example/loop", Script::To(303, "loop"));
    assert_eq!(net.fetch("https://a.example/1").await.unwrap(), [1, 2, 3]);
    assert_eq!(
        net.resolver.asked(),
        ["a.example", "a.example", "b.example", "a.example"]
    );
    for url in ["https://a.example/0", "https://a.example/loop"] {
        let before = net.connected().len();
        let error = net.fetch(url).await.unwrap_err();
        assert!(matches!(error, FetchError::Redirects { .. }), "{error}");
        assert_eq!(net.connected().len() - before, MAX_REDIRECTS + 1);
    }
    for (location, expected) in [
        ("http://a.example/2", "only https"),
        ("https://private.example/", "private, 10"),
        ("https://169.254.169.254/", "cloud metadata"),
        ("//127.0.0.1/", "loopback"),
        ("//[::1]/", "loopback"),
        ("https://a.example:22/", "port 443"),
        ("https://u:p@a.example/", "user name"),
        ("file:///etc/passwd", "only https"),
        ("https://[", "not a valid URL"),
    ] {
        let net = Net::new(&[]).script("https://a.example/", Script::To(302, location));
        let error = net
            .fetch("https://a.example/")
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{location}: {error}");
        assert_eq!(net.connected().len(), 1, "{location}");
    }
    // A host that turns private between two hops.
    let net = Net::new(&[]).script("https://a.example/", Script::To(302, "/again"));
    net.resolver
        .set("a.example", &[&["93.184.216.34"], &["192.168.0.9"]]);
    let error = net
        .fetch("https://a.example/")
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("private, 192.168"), "{error}");
    assert_eq!(net.connected().len(), 1);
}

#[tokio::test]
async fn allowed_hosts_are_the_only_ones_also_behind_redirects() {
    let net = Net::new(&["A.Example", "bücher.example", "93.184.216.34"])
        .script("https://a.example/", Script::Bytes(vec![1]))
        .script("https://a.example./", Script::Bytes(vec![2]))
        .script(
            "https://a.example/away",
            Script::To(302, "https://b.example/"),
        )
        .script("https://xn--bcher-kva.example/", Script::Bytes(vec![3]))
        .script("https://93.184.216.34/", Script::Bytes(vec![4]));
    net.resolver.set("a.example.", &[&["93.184.216.34"]]);
    net.resolver.set("xn--bcher-kva.example", &[&["1.1.1.1"]]);
    for (url, byte) in [
        ("https://a.example/", 1),
        ("https://A.EXAMPLE./", 2),
        ("https://bücher.example/", 3),
        ("https://93.184.216.34/", 4),
    ] {
        assert_eq!(net.fetch(url).await.unwrap(), [byte], "{url}");
    }
    for url in [
        "https://a.example/away",
        "https://b.example/",
        "https://www.a.example/",
        "https://a.example.evil.example/",
        "https://evil-a.example/",
        "https://1.1.1.1/",
    ] {
        let error = net.fetch(url).await.unwrap_err();
        let rule = match &error {
            FetchError::Refused { rule, .. } => *rule,
            other => panic!("{url}: {other}"),
        };
        assert_eq!(rule, Rule::Host, "{url}");
    }
    // Being allowed does not make it public.
    let net = Net::new(&["127.0.0.1", "private.example"]);
    for url in ["https://127.0.0.1/", "https://private.example/"] {
        let error = net.fetch(url).await.unwrap_err().to_string();
        assert!(error.contains("not public"), "{error}");
    }
}

#[test]
fn an_allowed_host_that_is_none_is_an_error() {
    let new = |name: &str| {
        let options = FetchOptions {
            allowed_hosts: vec![name.to_owned()],
            max_bytes: 1,
            timeout: Duration::from_secs(1),
        };
        let (resolver, transport) = (FakeResolver::default(), FakeTransport::default());
        Fetcher::over(options, Arc::new(resolver), Arc::new(transport))
    };
    for name in [
        "",
        " ",
        "*",
        "*.example",
        "https://x",
        "x/",
        "x:443",
        "x:80",
        "x:",
        "u@x",
        "a b",
        "a\tb",
        "[::1]:443",
        "[::1",
        "::1",
        "x?",
        "x#",
        "256.1.1.1",
    ] {
        let error = new(name).unwrap_err();
        assert!(error.contains(&format!("{name:?}")), "{error}");
    }
    for name in [
        "x",
        "X.example",
        "1.1.1.1",
        "[2606:4700::1]",
        "bücher.example",
    ] {
        assert!(new(name).is_ok(), "{name}");
    }
}

#[tokio::test]
async fn size_is_capped_with_and_without_a_length() {
    let pieces = |count, told| Script::Pieces {
        count,
        told,
        breaks: false,
    };
    let breaks = |count| Script::Pieces {
        count,
        told: None,
        breaks: true,
    };
    for (script, expected) in [
        (pieces(10, Some(10_000)), Ok(10_000)),
        (pieces(10, None), Ok(10_000)),
        (pieces(0, Some(10_001)), Err("larger than 10000 bytes")),
        (pieces(11, None), Err("larger than 10000 bytes")),
        // A length that lies.
        (pieces(11, Some(5)), Err("larger than 10000 bytes")),
        // An endless body ends at the cap, not at the break after it.
        (breaks(1_000_000_000), Err("larger than 10000 bytes")),
        (breaks(9), Err("broke before")),
        (
            Script::Bytes(vec![0; 10_001]),
            Err("larger than 10000 bytes"),
        ),
    ] {
        let net = Net::new(&[]).script("https://a.example/", script);
        let got = net.fetch("https://a.example/").await;
        match (got, expected) {
            (Ok(bytes), Ok(length)) => assert_eq!(bytes.len(), length),
            (Err(error), Err(message)) => {
                let error = error.to_string();
                assert!(
                    error.contains(message) && error.contains("a.example"),
                    "{error}"
                );
            }
            (got, expected) => panic!("{:?} instead of {expected:?}", got.map(|b| b.len())),
        }
    }
}

#[tokio::test]
async fn time_is_capped_over_all_of_it() {
    for script in [Script::Hangs, Script::HangsInBody] {
        let mut net = Net::new(&[])
            .script("https://a.example/", Script::To(302, "https://b.example/"))
            .script("https://b.example/", script);
        net.fetcher.timeout = Duration::from_millis(50);
        let error = net.fetch("https://a.example/").await.unwrap_err();
        assert!(matches!(error, FetchError::TimedOut { .. }), "{error}");
        assert!(error.to_string().contains("within 0.05 s"), "{error}");
    }
}

#[tokio::test]
async fn other_answers_are_errors_that_name_the_host() {
    for (script, expected) in [
        (Script::Status(404), "a.example answers with status 404"),
        (Script::Status(206), "a.example answers with status 206"),
        (Script::Status(302), "a.example answers with status 302"),
        (Script::To(304, "/x"), "a.example answers with status 304"),
        (Script::Status(500), "a.example answers with status 500"),
        (Script::Broken, "a.example: no answer over https"),
    ] {
        let net = Net::new(&[]).script("https://a.example/?sig=s3", script);
        let error = net.fetch("https://a.example/?sig=s3").await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}

/// The one test of the real transport that needs no network: the first bytes it sends, and to whom.
#[tokio::test]
async fn the_real_transport_speaks_tls_to_the_pinned_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut hello = vec![0; 4096];
        let length = stream.read(&mut hello).unwrap();
        hello.truncate(length);
        hello
    });
    let net = Net::new(&[]);
    // A name that no name server knows.
    let target = net.fetcher.check("https://pinned.invalid/x").unwrap();
    let answer = get_pinned(target, vec![address], Duration::from_secs(30)).await;
    assert!(answer.is_err(), "the server hung up");
    let hello = server.join().unwrap();
    assert_eq!(hello[0], 22, "a TLS handshake");
    let name = b"pinned.invalid";
    assert!(hello.windows(name.len()).any(|bytes| bytes == name));
}

#[tokio::test]
async fn the_real_fetcher_refuses_what_resolves_to_this_machine() {
    let fetcher = Fetcher::new(FetchOptions {
        allowed_hosts: Vec::new(),
        max_bytes: 1,
        timeout: Duration::from_secs(30),
    })
    .unwrap();
    let error = fetcher.fetch("https://localhost/x").await.unwrap_err();
    assert!(error.to_string().contains("loopback"), "{error}");
}
