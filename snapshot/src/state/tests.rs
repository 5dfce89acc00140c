//! State: all of it is used, or the import fails.

use super::*;

fn example() -> Vec<u8> {
    let mut writer = StateWriter::default();
    writer.add("vcpu", "1", 2, &[1, 2]).unwrap();
    writer.add("gic", "", 1, &Blob(vec![0xca, 0xfe])).unwrap();
    writer.add("vcpu", "0", 2, &[3, 4]).unwrap();
    writer.encode().unwrap()
}

#[test]
fn components_are_lines_in_order() {
    let text = String::from_utf8(example()).unwrap();
    let expected = concat!(
        "{\"components\": [\n",
        "  {\"kind\":\"gic\",\"id\":\"\",\"version\":1,\"payload\":\"cafe\"},\n",
        "  {\"kind\":\"vcpu\",\"id\":\"0\",\"version\":2,\"payload\":[3,4]},\n",
        "  {\"kind\":\"vcpu\",\"id\":\"1\",\"version\":2,\"payload\":[1,2]}\n",
        "]}\n",
    );
    assert_eq!(text, expected);
}

#[test]
fn all_that_was_saved_must_be_taken() {
    let mut reader = StateReader::decode(&example()).unwrap();
    assert_eq!(reader.ids("vcpu"), ["0", "1"]);
    assert_eq!(reader.take::<Vec<u32>>("vcpu", "0", 2).unwrap(), (2, vec![3, 4]));
    assert_eq!(reader.take::<Blob>("gic", "", 5).unwrap(), (1, Blob(vec![0xca, 0xfe])));
    let error = reader.finish().unwrap_err();
    assert_eq!(error.to_string(), "1 components that this machine does not have, the first vcpu 1");
}

#[test]
fn what_is_missing_later_or_of_another_shape_is_refused() {
    let mut reader = StateReader::decode(&example()).unwrap();
    assert!(matches!(reader.take::<Value>("its", "", 1), Err(StateError::Missing { .. })));
    assert!(matches!(
        reader.take::<Value>("vcpu", "0", 1),
        Err(StateError::Newer { found: 2, newest: 1, .. })
    ));
    assert!(matches!(reader.take::<String>("vcpu", "1", 2), Err(StateError::Payload { .. })));
}

#[test]
fn files_that_are_not_a_list_of_components_are_refused() {
    for bad in ["", "[]", "{}", "{\"components\":[],\"more\":1}", "{\"components\":[{\"kind\":\"a\"}]}"] {
        assert!(matches!(StateReader::decode(bad.as_bytes()), Err(StateError::Shape(_))), "{bad}");
    }
    let one = r#"{"kind":"a","id":"","version":1,"payload":0}"#;
    let twice = format!(r#"{{"components":[{one},{one}]}}"#);
    assert!(matches!(StateReader::decode(twice.as_bytes()), Err(StateError::Twice { .. })));
    let nameless = r#"{"components":[{"kind":"","id":"","version":1,"payload":0}]}"#;
    assert!(matches!(StateReader::decode(nameless.as_bytes()), Err(StateError::Name)));
    let deep = format!(r#"{{"components":{}"#, "[".repeat(100_000));
    assert!(matches!(StateReader::decode(deep.as_bytes()), Err(StateError::Shape(_))));
}

#[test]
fn a_component_is_saved_once() {
    let mut writer = StateWriter::default();
    writer.add("rtc", "", 1, &0).unwrap();
    assert!(matches!(writer.add("rtc", "", 1, &0), Err(StateError::Twice { .. })));
    assert!(matches!(writer.add("", "x", 1, &0), Err(StateError::Name)));
}
