//! The grammar: `name:value|type|@rate|#tag:text,tag:text`, with `value` one or many joined by `:`.

/// Most values of one line. A line is as long as its datagram at most; this keeps it honest.
const VALUES_MAX: usize = 4096;
/// Most tags of one line.
const TAGS_MAX: usize = 256;
/// So much of a bad part is shown.
const SHOWN_CHARS: usize = 40;

/// What one line says about its metric.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change<'a> {
    /// Add to a counter; the sample rate is in it.
    Count(f64),
    /// Set a gauge.
    Set(f64),
    /// Add to a gauge.
    Move(f64),
    /// One duration or size that stands for so many.
    Observe(f64, f64),
    /// A member of a set.
    Member(&'a str),
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line<'a> {
    pub name: &'a str,
    pub changes: Vec<Change<'a>>,
    pub tags: Vec<(&'a str, &'a str)>,
}

/// Reads one line without its end.
///
/// **Errors**: what is wrong, as a text for people; nothing of the line can be taken.
pub(super) fn line(bytes: &[u8]) -> Result<Line<'_>, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "not UTF-8".to_owned())?;
    if text.starts_with("_e{") || text.starts_with("_sc|") {
        return Err("events and service checks are not taken, only metrics".into());
    }
    let missing = || format!("{:?} is not like name:value|type", shortened(text));
    let (name, rest) = text.split_once(':').ok_or_else(missing)?;
    if name.is_empty() {
        return Err("the metric has no name".into());
    }
    let mut parts = rest.split('|');
    let values = parts.next().unwrap_or_default();
    let kind = parts.next().ok_or_else(missing)?;
    let (mut weight, mut tags) = (1.0, Vec::new());
    for part in parts {
        if let Some(rate) = part.strip_prefix('@') {
            weight = 1.0 / sample_rate(rate)?;
        } else if let Some(list) = part.strip_prefix('#') {
            tags = tag_list(list)?;
        } else if part.starts_with('T') {
            return Err(
                "a time of its own is not taken: values are gathered over an interval".into(),
            );
        }
        // Other extensions say from where it comes, and mean nothing to us.
    }
    let changes = if kind == "s" {
        // A member may hold colons.
        vec![Change::Member(values)]
    } else {
        let values = values.split(':').take(VALUES_MAX + 1);
        let changes: Vec<_> = values
            .map(|v| change(v, kind, weight))
            .collect::<Result<_, _>>()?;
        if changes.len() > VALUES_MAX {
            return Err(format!("more than {VALUES_MAX} values in one line"));
        }
        changes
    };
    Ok(Line {
        name,
        changes,
        tags,
    })
}

fn change<'a>(text: &str, kind: &str, weight: f64) -> Result<Change<'a>, String> {
    let n = number(text)?;
    match kind {
        "c" => Ok(Change::Count(n * weight)),
        "g" if text.starts_with(['+', '-']) => Ok(Change::Move(n)),
        "g" => Ok(Change::Set(n)),
        "ms" | "h" | "d" => Ok(Change::Observe(n, weight)),
        other => Err(format!(
            "unknown type {:?}; known are c, g, ms, h, d and s",
            shortened(other)
        )),
    }
}

fn number(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(n) if n.is_finite() => Ok(n),
        Ok(_) => Err(format!("{:?} is not a finite number", shortened(text))),
        Err(_) => Err(format!("{:?} is not a number", shortened(text))),
    }
}

fn sample_rate(text: &str) -> Result<f64, String> {
    match number(text) {
        Ok(rate) if rate > 0.0 && rate <= 1.0 && (1.0 / rate).is_finite() => Ok(rate),
        _ => Err(format!(
            "sample rate {:?} is not a number above 0 and up to 1",
            shortened(text)
        )),
    }
}

fn tag_list(list: &str) -> Result<Vec<(&str, &str)>, String> {
    let tags: Vec<_> = list
        .split(',')
        .filter(|tag| !tag.is_empty())
        .take(TAGS_MAX + 1)
        .map(|tag| tag.split_once(':').unwrap_or((tag, "")))
        .collect();
    if tags.len() > TAGS_MAX {
        return Err(format!("more than {TAGS_MAX} tags"));
    }
    Ok(tags)
}

fn shortened(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}
