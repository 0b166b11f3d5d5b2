//! Which names rotated generations of a log have.

/// Whether `name` is what programs that rotate logs make of `base`: `app.log.1`, `app.log-20240131`,
/// `app.log.old`, `app-20240131.log`, `app.1.log`. Compressed ones are not: they cannot be read here.
pub(super) fn is_generation_of(name: &str, base: &str) -> bool {
    if name == base {
        return false;
    }
    if let Some(rest) = name.strip_prefix(base) {
        return is_mark(rest) || [".old", ".bak", ".prev", "~"].contains(&rest);
    }
    let Some((stem, ending)) = base.rsplit_once('.') else {
        return false;
    };
    name.strip_prefix(stem)
        .and_then(|rest| rest.strip_suffix(ending)?.strip_suffix('.'))
        .is_some_and(is_mark)
}

/// A number, date or time behind a separator.
fn is_mark(text: &str) -> bool {
    let part = |c: char| c.is_ascii_digit() || "-_.:+TZ".contains(c);
    text.starts_with(['.', '-', '_'])
        && text.contains(|c: char| c.is_ascii_digit())
        && text.chars().all(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_are_known_by_their_names() {
        for (name, base, expected) in [
            ("app.log.1", "app.log", true),
            ("app.log.12", "app.log", true),
            ("app.log-20240131", "app.log", true),
            ("app.log.2024-01-31T10:00:00Z", "app.log", true),
            ("app.log.old", "app.log", true),
            ("app-20240131.log", "app.log", true),
            ("app.1.log", "app.log", true),
            ("log.1", "log", true),
            ("app.log", "app.log", false),
            ("app.log.1.gz", "app.log", false),
            ("app.log.swp", "app.log", false),
            ("app-errors.log", "app.log", false),
            ("app2.log", "app.log", false),
            ("app.log2", "app.log", false),
            ("other.log.1", "app.log", false),
            ("app.log.", "app.log", false),
        ] {
            assert_eq!(is_generation_of(name, base), expected, "{name}");
        }
    }
}
