//! A page for a browser, where a server's answer was expected.

/// The most of a title that is shown.
const MAX_TITLE: usize = 200;

/// The title of a page, on one line; `None` if `body` is no page.
#[must_use]
pub fn title(body: &[u8]) -> Option<String> {
    // Neither a row nor an exception of ClickHouse begins like this, and no token does.
    let head = String::from_utf8_lossy(&body[..body.len().min(4096)]);
    let lower = head.trim_start().to_ascii_lowercase();
    if !lower.starts_with("<!doctype html") && !lower.starts_with("<html") {
        return None;
    }
    let text = head.trim_start();
    let inside = lower.find("<title>").map(|at| &text[at + "<title>".len()..]).and_then(|rest| rest.split('<').next());
    let title: Vec<&str> = inside.unwrap_or_default().split_whitespace().collect();
    let title: String = title.join(" ").chars().take(MAX_TITLE).collect();
    Some(if title.is_empty() { "a web page".into() } else { format!("a web page, titled {title:?}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_told_by_its_title_and_nothing_else_is_a_page() {
        let nginx = b"<!DOCTYPE html>\n<html>\n<head>\n<title>Welcome to\n nginx!</title>\n</head></html>";
        assert_eq!(title(nginx).unwrap(), "a web page, titled \"Welcome to nginx!\"");
        assert_eq!(title(b"\r\n<html><body>no title</body></html>").unwrap(), "a web page");
        assert_eq!(title(b"1\t<html>\n"), None);
        assert_eq!(title(b""), None);
    }
}
