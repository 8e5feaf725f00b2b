//! Parts of files, and files that the caller has already.

use serde_json::json;

use crate::client::{Ask, Reply};
use crate::node::{FAST, Place, clip};

#[test]
fn parts_and_conditions() {
    let place = Place::new();
    let node = place.start(FAST, &[]);
    let mut body = clip("a boat");
    body["size"] = json!("128x128");
    let id = node.create(&body);
    node.completed(&id);
    let whole = node.content(&id).unwrap();
    let size = whole.len();
    let path = format!("/v1/videos/{id}/content");
    let ask = |headers: &[(&str, &str)]| -> Reply {
        let ask = headers.iter().fold(Ask::get(&path), |ask, (name, value)| {
            ask.header(name, value)
        });
        node.send(&ask)
    };
    let full = ask(&[]);
    let etag = full.header("etag").to_owned();
    assert_eq!(full.header("content-type"), "video/mp4");
    assert_eq!(full.header("accept-ranges"), "bytes");
    assert_eq!(full.header("x-content-type-options"), "nosniff");
    assert!(full.header("cache-control").contains("private"));
    assert!(
        full.header("content-disposition")
            .contains(&format!("{id}.mp4"))
    );

    let last = size - 1;
    for (range, first, last) in [
        ("bytes=0-0".to_owned(), 0, 0),
        ("bytes=1-9".to_owned(), 1, 9),
        ("BYTES=1-9".to_owned(), 1, 9),
        ("bytes=-5".to_owned(), size - 5, last),
        ("bytes=0-".to_owned(), 0, last),
        (format!("bytes={last}-"), last, last),
        (format!("bytes=10-{}", size * 2), 10, last),
        ("bytes=10-99999999999999999999999".to_owned(), 10, last),
        // A suffix longer than the file is the file.
        (format!("bytes=-{}", size * 2), 0, last),
        ("bytes= 3-4 ".to_owned(), 3, 4),
    ] {
        let part = ask(&[("Range", &range)]);
        assert_eq!(part.status, 206, "{range}");
        assert_eq!(
            part.header("content-range"),
            format!("bytes {first}-{last}/{size}"),
            "{range}"
        );
        assert_eq!(part.body, whole[first..=last], "{range}");
        assert_eq!(part.header("etag"), etag);
    }
    for range in [
        format!("bytes={size}-"),
        format!("bytes={}-{}", size * 2, size * 3),
        "bytes=-0".into(),
    ] {
        let refused = ask(&[("Range", &range)]);
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (416, "range_not_satisfiable"),
            "{range}"
        );
        assert_eq!(
            refused.header("content-range"),
            format!("bytes */{size}"),
            "{range}"
        );
    }
    // Several parts, and what is no range: the whole file, as if nothing had been asked.
    for range in [
        "bytes=0-0,5-9",
        "bytes=0-0, -1",
        "bytes=5-2",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=1-2-3",
        "bytes=--5",
        "bytes=+1-2",
        "bytes 0-1",
        "items=0-1",
        "0-1",
        "bytes=0x1-2",
        "bytes=1",
        "",
    ] {
        let reply = ask(&[("Range", range)]);
        assert_eq!(reply.status, 200, "{range:?}");
        assert_eq!(reply.body, whole, "{range:?}");
    }
    let twice = ask(&[("Range", "bytes=0-0"), ("Range", "bytes=1-1")]);
    assert_eq!((twice.status, twice.body.len()), (200, size));

    for condition in [
        etag.clone(),
        "*".into(),
        format!("\"other\", {etag}"),
        format!("W/{etag}"),
    ] {
        let known = ask(&[("If-None-Match", &condition)]);
        assert_eq!(known.status, 304, "{condition}");
        assert!(known.body.is_empty());
        assert_eq!(known.header("etag"), etag);
    }
    assert_eq!(ask(&[("If-None-Match", "\"other\"")]).body, whole);
    // What the caller has goes before the part it asks for.
    let known = ask(&[("If-None-Match", &etag), ("Range", "bytes=0-0")]);
    assert_eq!(known.status, 304);

    let same = ask(&[("If-Range", &etag), ("Range", "bytes=0-3")]);
    assert_eq!((same.status, same.body.len()), (206, 4));
    for other in [
        "\"other\"",
        &format!("W/{etag}"),
        "Sat, 29 Oct 1994 19:43:31 GMT",
    ] {
        let reply = ask(&[("If-Range", other), ("Range", "bytes=0-3")]);
        assert_eq!((reply.status, reply.body.len()), (200, size), "{other}");
    }

    let head = node.send(&Ask::new("HEAD", &path));
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.number("content-length") as usize, size);
    assert_eq!(head.header("etag"), etag);

    let poster = node.get(&format!("{path}?variant=thumbnail"));
    assert_eq!(
        (poster.status, poster.header("content-type")),
        (200, "image/jpeg")
    );
    assert_ne!(poster.header("etag"), etag);
    let image =
        image::load_from_memory_with_format(&poster.body, image::ImageFormat::Jpeg).unwrap();
    assert!(image.width() > 0 && image.width() == image.height());
    let known = Ask::get(&format!("{path}?variant=thumbnail"))
        .header("If-None-Match", poster.header("etag"));
    assert_eq!(node.send(&known).status, 304);

    for wrong in [
        "?variant=sound",
        "?variant=",
        "?variant=video&variant=thumbnail",
    ] {
        assert_eq!(node.get(&format!("{path}{wrong}")).status, 400, "{wrong}");
    }
    for id in [
        "video_0",
        "video_00000000000000000000000000000000",
        "..%2f..%2fjobs.sqlite",
        "%00",
    ] {
        assert_eq!(
            node.get(&format!("/v1/videos/{id}/content")).status,
            404,
            "{id}"
        );
    }
}

#[test]
fn a_part_of_a_video_that_is_not_there_yet() {
    let place = Place::new();
    let node = place.start(&crate::node::hangs("held", "denoise"), &[]);
    let id = node.create(&clip("held"));
    for variant in ["", "?variant=thumbnail"] {
        let ask =
            Ask::get(&format!("/v1/videos/{id}/content{variant}")).header("Range", "bytes=0-0");
        let reply = node.send(&ask);
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (409, "not_completed")
        );
    }
}
