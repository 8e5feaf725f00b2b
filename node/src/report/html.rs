//! One page that needs nothing else: no script, no font, no address.

use std::fmt::Write as _;

use super::Tool;
use super::words::turns_text;

const STYLE: &str = include_str!("report.css");

/// A line of a page; writing into a text cannot fail.
macro_rules! put {
    ($text:expr, $($words:tt)*) => { {
        use std::fmt::Write as _;
        let _ = writeln!($text, $($words)*);
    } };
}
pub(crate) use put;

/// Whether a page holds pictures of its own. Both forms refuse everything else, so that even text that got past the
/// escaping could load and send nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Images {
    /// Drawings only.
    None,
    /// Also data URLs.
    Inline,
}

/// A page up to its first content. `style` goes behind the style that all pages share.
pub(crate) fn open(title: &str, images: Images, style: &str) -> String {
    let title = escaped(title);
    let images = match images {
        Images::None => "",
        Images::Inline => " img-src data:;",
    };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';{images} style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
    )
}

/// The end of a page.
pub(crate) fn close(page: &mut String, tool: &Tool, remark: &str) {
    put!(
        page,
        "<footer>{} {}. {}</footer>\n</main>\n</body>\n</html>",
        tool.name,
        tool.version,
        escaped(remark)
    );
}

/// Text as HTML: names and messages come from repositories and models that may be hostile.
pub(crate) fn escaped(text: &str) -> Escaped<'_> {
    Escaped(text)
}

/// See [`escaped`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c if turns_text(c) => f.write_str("\u{fffd}")?,
                c if c.is_control() && c != '\n' => f.write_str("\u{fffd}")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_text() {
        let text = "<img src=x onerror='a()'>&\"\u{202e}\u{7}\n";
        assert_eq!(
            escaped(text).to_string(),
            "&lt;img src=x onerror=&#39;a()&#39;&gt;&amp;&quot;\u{fffd}\u{fffd}\n"
        );
    }

    #[test]
    fn pages_refuse_what_they_do_not_hold() {
        let mut page = open("</title><script>", Images::None, "");
        assert!(!page.contains("<script") && !page.contains("img-src"));
        assert!(
            open("x", Images::Inline, "").contains("default-src 'none'; img-src data:; style-src")
        );
        close(&mut page, &Tool::THIS, "<end>");
        assert!(page.ends_with("&lt;end&gt;</footer>\n</main>\n</body>\n</html>\n"));
    }
}
