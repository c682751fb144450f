//! Topics of a rule: read, tested by `[[expect]]`, refused with their key.

use super::{parse, psk, refused};

#[test]
fn topics_of_a_rule_are_read_tested_by_expect_and_refused_with_their_key() {
    let own = "publish = [\"factory/{line}/{device}/temp\", \"{device}/x\"]\n\
               subscribe = \"cmd/{device}/#\"\n";
    let base = format!("{}{own}", psk("a"));
    let run = |expect: &str| {
        let text = format!("{base}[[expect]]\nconnect = \"psk:a\"\n{expect}\n");
        let problems = parse(&text).unwrap().run_expectations();
        problems
            .first()
            .map(ToString::to_string)
            .unwrap_or_default()
    };
    for holds in [
        "device = \"a\"\npublish = \"factory/7/a/temp\"",
        "device = \"a\"\npublish = \"a/x\"",
        "device = \"a\"\npublish = \"devices/a/messages/events/\"",
        "device = \"a\"\nsubscribe = \"cmd/a/#\"",
        "deny = \"topic\"\npublish = \"factory/7/b/temp\"",
        "deny = \"topic\"\npublish = \"factory/7/a/hum\"",
        "deny = \"topic\"\nsubscribe = \"cmd/b/#\"",
        "deny = \"topic\"\nsubscribe = \"cmd/#\"",
    ] {
        assert_eq!(run(holds), "", "{holds}");
    }
    let failed = run("device = \"a\"\npublish = \"factory/7/b/temp\"");
    assert!(failed.contains("or as its rule says"), "{failed}");
    let bad = |lines: &str, part: &str| refused(&format!("{}{lines}\n", psk("a")), part);
    bad(
        "publish = \"a/#\"",
        "device[0].publish: a template of publish",
    );
    bad(
        "subscribe = \"a/{b}\"",
        "device[0].subscribe: nothing fills {b}",
    );
    bad("retain = \"keep\"", "device[0].retain: must be");
    bad("unmatched = \"ignore\"", "device[0].unmatched: must be");
    let deny = "[[rule]]\nwhen = { credential = \"psk\" }\ndeny = true\nunmatched = \"drop\"\n";
    refused(deny, "unmatched: means nothing in a rule with deny");
}
