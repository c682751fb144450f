//! Topic names and filters: validity, bounds and matching (MQTT 3.1.1 §4.7).
//!
//! Everything works on bytes: the separators and wildcards are ASCII, and no byte of a multi-byte
//! character can be mistaken for one. Nothing recurses; the cost is linear in the length.

use super::violation::Violation;

/// Bounds of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicLimits {
    /// Longest topic or filter, bytes.
    pub bytes_max: usize,
    /// Most levels of a topic or filter.
    pub levels_max: usize,
}

/// Checks a topic name.
///
/// # Errors
/// Empty, too long, too deep, or with a wildcard (MQTT-3.3.2-2).
pub fn check_name(topic: &[u8], limits: TopicLimits) -> Result<(), Violation> {
    check_bounds(topic, limits)?;
    if topic.iter().any(|b| matches!(b, b'+' | b'#')) {
        return Err(Violation::TopicWildcard);
    }
    Ok(())
}

/// Checks a topic filter.
///
/// # Errors
/// Empty, too long, too deep, or with a wildcard that shares its level (MQTT-4.7.1-3) or, for
/// `#`, is not last (MQTT-4.7.1-2).
pub fn check_filter(filter: &[u8], limits: TopicLimits) -> Result<(), Violation> {
    check_bounds(filter, limits)?;
    let mut levels = filter.split(|&b| b == b'/').peekable();
    while let Some(level) = levels.next() {
        let wild = level.iter().any(|b| matches!(b, b'+' | b'#'));
        if wild && (level.len() > 1 || (level == b"#" && levels.peek().is_some())) {
            return Err(Violation::FilterWildcard);
        }
    }
    Ok(())
}

fn check_bounds(topic: &[u8], limits: TopicLimits) -> Result<(), Violation> {
    if topic.is_empty() {
        return Err(Violation::TopicEmpty);
    }
    if topic.len() > limits.bytes_max {
        return Err(Violation::TopicTooLong);
    }
    let separators = topic.iter().filter(|&&b| b == b'/').count();
    if separators >= limits.levels_max {
        return Err(Violation::TopicTooDeep);
    }
    Ok(())
}

/// Whether a valid `filter` matches a valid topic name. A wildcard in the first level does not
/// match a topic that begins with `$` (MQTT-4.7.2-1).
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    let wild = filter.starts_with(['+', '#']);
    if wild && topic.starts_with('$') {
        return false;
    }
    let mut names = topic.split('/');
    for level in filter.split('/') {
        match (level, names.next()) {
            // `#` also matches the parent level, hence also when no name is left.
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            _ => return false,
        }
    }
    names.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TopicLimits = TopicLimits {
        bytes_max: 64,
        levels_max: 4,
    };

    #[test]
    fn names_are_checked_for_wildcards_and_bounds() {
        let long = "x".repeat(65);
        for (topic, want) in [
            ("a", Ok(())),
            ("/", Ok(())),
            ("a/b/c/d", Ok(())),
            ("é/😀", Ok(())),
            ("$iothub/x", Ok(())),
            ("", Err(Violation::TopicEmpty)),
            ("a/b/c/d/e", Err(Violation::TopicTooDeep)),
            (long.as_str(), Err(Violation::TopicTooLong)),
            ("a/+/b", Err(Violation::TopicWildcard)),
            ("#", Err(Violation::TopicWildcard)),
            ("a+", Err(Violation::TopicWildcard)),
        ] {
            assert_eq!(check_name(topic.as_bytes(), LIMITS), want, "{topic:?}");
        }
    }

    #[test]
    fn filters_take_wildcards_only_as_whole_levels() {
        for (filter, want) in [
            ("#", Ok(())),
            ("+", Ok(())),
            ("+/+/#", Ok(())),
            ("/+", Ok(())),
            ("a/#", Ok(())),
            ("", Err(Violation::TopicEmpty)),
            ("a#", Err(Violation::FilterWildcard)),
            ("#/a", Err(Violation::FilterWildcard)),
            ("a+/b", Err(Violation::FilterWildcard)),
            ("a/##", Err(Violation::FilterWildcard)),
            ("a/+#", Err(Violation::FilterWildcard)),
            ("++", Err(Violation::FilterWildcard)),
        ] {
            assert_eq!(check_filter(filter.as_bytes(), LIMITS), want, "{filter:?}");
        }
    }

    #[test]
    fn matching_follows_the_examples_of_the_specification() {
        for (filter, topic, want) in [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/ranking",
                true,
            ),
            ("sport/#", "sport", true),
            ("#", "a/b", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/x", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("$SYS/#", "$SYS/monitor", true),
            ("$iothub/twin/#", "$iothub/twin/res/200", true),
            ("a", "b", false),
            ("a/b", "a", false),
            ("a", "a/b", false),
            ("+", "😀", true),
            ("é/#", "é/1", true),
        ] {
            assert_eq!(matches(filter, topic), want, "{filter} against {topic}");
        }
    }

    #[test]
    fn sixty_thousand_levels_are_refused_without_deep_recursion() {
        let slashes = "/".repeat(65_400);
        let wide = TopicLimits {
            bytes_max: 70_000,
            levels_max: 16,
        };
        assert_eq!(
            check_filter(slashes.as_bytes(), wide),
            Err(Violation::TopicTooDeep)
        );
        assert!(matches(&slashes, &slashes));
    }
}
