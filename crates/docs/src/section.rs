//! One generated section of a page.

use std::path::Path;

/// The text between the two marks.
pub struct Section {
    /// The page, relative to `docs/`.
    pub page: &'static str,
    /// The name in the opening mark.
    pub name: &'static str,
    /// Markdown, without the marks.
    pub text: String,
}

impl Section {
    /// Compares the page with the text.
    ///
    /// # Errors
    /// The page is out of date, cannot be read, or has no such section.
    pub fn check(&self, docs: &Path) -> Result<(), String> {
        let (path, page) = self.read(docs)?;
        let wanted = self.put(&page)?;
        if page == wanted {
            Ok(())
        } else {
            Err(format!("{path}: section {} is out of date; run `just generate`", self.name))
        }
    }

    /// Updates the page.
    ///
    /// # Errors
    /// The page cannot be read or written, or has no such section.
    pub fn write(&self, docs: &Path) -> Result<(), String> {
        let (path, page) = self.read(docs)?;
        std::fs::write(&path, self.put(&page)?).map_err(|e| format!("{path}: {e}"))
    }

    fn read(&self, docs: &Path) -> Result<(String, String), String> {
        let path = docs.join(self.page).display().to_string();
        let page = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        Ok((path, page))
    }

    fn put(&self, page: &str) -> Result<String, String> {
        const END: &str = "<!-- end -->";
        let begin = format!("<!-- generated: {} -->\n", self.name);
        let missing = || format!("docs/{} has no section {}", self.page, self.name);
        let (before, rest) = page.split_once(&begin).ok_or_else(missing)?;
        let (_, after) = rest.split_once(END).ok_or_else(missing)?;
        Ok(format!("{before}{begin}\n{}\n{END}{after}", self.text.trim_end().to_owned() + "\n"))
    }
}

/// A table in Markdown.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(head.iter().map(|&h| h.to_owned()).collect());
    text += &line(head.iter().map(|_| "---".to_owned()).collect());
    for row in rows {
        text += &line(row.iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_out_of_date_is_an_error_until_it_is_written() {
        let docs = tempfile::tempdir().unwrap();
        let section = Section { page: "p.md", name: "x", text: "new".into() };
        let page = docs.path().join("p.md");
        std::fs::write(&page, "<!-- generated: x -->\nold\n<!-- end -->\n").unwrap();
        let error = section.check(docs.path()).unwrap_err();
        assert!(error.ends_with("p.md: section x is out of date; run `just generate`"), "{error}");
        section.write(docs.path()).unwrap();
        section.check(docs.path()).unwrap();
        std::fs::write(&page, "").unwrap();
        let error = section.write(docs.path()).unwrap_err();
        assert!(error.ends_with("p.md has no section x"), "{error}");
    }

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let section = Section { page: "p.md", name: "x", text: "new".into() };
        let page = "a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n";
        let written = section.put(page).unwrap();
        assert_eq!(written, "a\n<!-- generated: x -->\n\nnew\n\n<!-- end -->\nb\n");
        assert_eq!(section.put(&written).unwrap(), written);
        assert!(section.put("no marks").is_err());
    }

    #[test]
    fn a_cell_cannot_break_its_table() {
        assert_eq!(table(&["a"], [vec!["x|y\nz".to_owned()]]), "| a |\n| --- |\n| x\\|y z |\n");
    }
}
