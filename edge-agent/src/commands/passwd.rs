//! User names, as `/etc/passwd` has them.

/// User id and group id of `name` in a file of the form `name:password:uid:gid:…`.
pub(super) fn find(text: &str, name: &str) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some((uid, gid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_whole_and_bad_lines_are_passed_over() {
        let text = "root:x:0:0:root:/root:/bin/sh\n# a: b\nweb:x\nweb:x:33:34:w:/:/bin/false\n";
        assert_eq!(find(text, "root"), Some((0, 0)));
        assert_eq!(find(text, "web"), Some((33, 34)));
        for missing in ["we", "webb", "", "x", "# a"] {
            assert_eq!(find(text, missing), None, "{missing:?}");
        }
    }
}
