//! What Python takes for JSON and for numbers.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::json::*;

fn number(text: &str) -> Number {
    parse(text).unwrap().to_number()
}

#[test]
fn numbers_are_converted_as_python_does() {
    // python3 -c 'import json; print(float(json.loads(TEXT)))'
    for (text, value) in [
        ("88.6", 88.6),
        ("true", 1.0),
        ("false", 0.0),
        ("\"88.6\"", 88.6),
        ("\" 1e2 \"", 100.0),
        ("\"\\u00a0+7.\\u001f\"", 7.0),
        ("\".5\"", 0.5),
        ("\"1_0.2_5\"", 10.25),
        ("-0", 0.0),
        ("1E+2", 100.0),
    ] {
        assert_eq!(number(text), Number::Finite(value), "{text}");
    }
    for text in [
        "\"0x10\"",
        "\"\"",
        "\" \"",
        "\"1__0\"",
        "\"_1\"",
        "\"1_\"",
        "\"1e\"",
        "\".\"",
        "\"nan\"",
        "NaN",
        "\"1-2\"",
        "\"85%\"",
        "\"85/100\"",
        "null",
        "[]",
        "{}",
        "\"1 2\"",
        "\"--1\"",
    ] {
        assert_eq!(number(text), Number::Not, "{text}");
    }
    for text in ["Infinity", "-Infinity", "\"inf\"", "\"-iNFinity\"", "1e999"] {
        assert_eq!(number(text), Number::Infinite, "{text}");
    }
    assert_eq!(number(&"9".repeat(400)), Number::Infinite);
    assert_eq!(parse("true").unwrap().number(), Number::Not);
}

#[test]
fn what_python_refuses_is_refused() {
    for text in [
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "{'a':1}",
        "{a:1}",
        "01",
        "1.",
        "1.e3",
        "1e",
        "+1",
        "-",
        ".5",
        "\"\t\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"",
        "nul",
        "NAN",
        "[1 2]",
        "{\"a\" 1}",
        "1 2",
        "\u{feff}1",
        "{\"a\":}",
        "// x\n1",
    ] {
        assert!(parse(text).is_err(), "{text:?}");
    }
    let deep = "[".repeat(200_000);
    assert!(parse(&deep).is_err());
    let nested = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    assert!(parse(&nested).is_ok());
}

#[test]
fn what_python_takes_is_taken() {
    let text = r#" { "a" : [ 1 , -2.5e-1 , "\ud83d\ude00 \ud83d \u00e9\/" ], "a": {}, "b": NaN } "#;
    let Json::Object(fields) = parse(text).unwrap() else {
        panic!("an object")
    };
    // Of equal keys the last one counts.
    assert_eq!(fields["a"], Json::Object(BTreeMap::new()));
    let Json::Text(text) = parse(r#""\ud83d\ude00 \ud83d \u00e9\/\n""#).unwrap() else {
        panic!("a text")
    };
    assert_eq!(text, "😀 \u{fffd} é/\n");
}

#[test]
fn shown_as_python_shows_it() {
    for (text, shown) in [
        ("null", "None"),
        ("true", "True"),
        ("-0", "0"),
        ("12", "12"),
        ("\"a\"", "a"),
        ("[1, \"a\", null]", "[1, \"a\", None]"),
        ("{\"a\": [true]}", "{\"a\": [True]}"),
    ] {
        assert_eq!(parse(text).unwrap().to_text(), shown);
    }
    for (text, falsy) in [
        ("0", true),
        ("0.0", true),
        ("\"\"", true),
        ("[]", true),
        ("\"0\"", false),
        ("NaN", false),
    ] {
        assert_eq!(parse(text).unwrap().is_falsy(), falsy, "{text}");
    }
}
