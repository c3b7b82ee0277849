//! The parts of a document that are made, not written: between `<!-- name -->` and `<!-- /name -->`.

/// The part of that name.
pub fn part<'a>(page: &'a str, name: &str) -> &'a str {
    let (_, rest) = page.split_once(&format!("<!-- {name} -->\n")).unwrap_or_else(|| panic!("no part {name}"));
    rest.split_once(&format!("<!-- /{name} -->")).unwrap_or_else(|| panic!("the part {name} has no end")).0
}

/// The page with another text in that part.
pub fn with_part(page: &str, name: &str, text: &str) -> String {
    let old = part(page, name);
    page.replacen(
        &format!("<!-- {name} -->\n{old}<!-- /{name} -->"),
        &format!("<!-- {name} -->\n{text}<!-- /{name} -->"),
        1,
    )
}
