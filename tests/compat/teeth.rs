//! The rules against descriptors changed by hand: each way of breaking a peer is found, in its own words, and each way of
//! growing is not.

use prost_types::{
    DescriptorProto, EnumDescriptorProto, EnumValueDescriptorProto, FieldDescriptorProto,
    FileDescriptorSet, MethodDescriptorProto, OneofDescriptorProto,
    descriptor_proto::ReservedRange,
    enum_descriptor_proto::EnumReservedRange,
    field_descriptor_proto::{Label, Type},
};

use super::{released, rules::breaking};

fn message<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut DescriptorProto {
    let messages = &mut set.file[0].message_type;
    messages.iter_mut().find(|m| m.name() == name).unwrap()
}

fn field<'a>(set: &'a mut FileDescriptorSet, of: &str, name: &str) -> &'a mut FieldDescriptorProto {
    let fields = &mut message(set, of).field;
    fields.iter_mut().find(|f| f.name() == name).unwrap()
}

fn enumeration<'a>(set: &'a mut FileDescriptorSet, name: &str) -> &'a mut EnumDescriptorProto {
    let enums = &mut set.file[0].enum_type;
    enums.iter_mut().find(|e| e.name() == name).unwrap()
}

fn sync(set: &mut FileDescriptorSet) -> &mut MethodDescriptorProto {
    &mut set.file[0].service[0].method[0]
}

fn new_field(name: &str, number: i32) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.into()),
        json_name: Some(name.into()),
        number: Some(number),
        label: Some(Label::Optional.into()),
        r#type: Some(Type::String.into()),
        ..Default::default()
    }
}

fn new_value(name: &str, number: i32) -> EnumValueDescriptorProto {
    EnumValueDescriptorProto {
        name: Some(name.into()),
        number: Some(number),
        options: None,
    }
}

type Change = fn(&mut FileDescriptorSet);

/// What one change of the released descriptor is found to break.
fn after(change: Change) -> Vec<String> {
    let mut current = released();
    change(&mut current);
    breaking(&released(), &current)
}

#[test]
fn what_breaks_a_field_is_found() {
    let cases: [(Change, &str); 10] = [
        (
            |s| message(s, "Key").field.retain(|f| f.name() != "namespace"),
            "berth.v1.Key.namespace: the field was removed",
        ),
        (
            |s| field(s, "Key", "namespace").number = Some(9),
            "berth.v1.Key.namespace: number 2 became 9",
        ),
        (
            |s| field(s, "Key", "namespace").name = Some("scope".into()),
            "berth.v1.Key.namespace: name namespace became scope",
        ),
        (
            |s| field(s, "Key", "namespace").json_name = Some("ns".into()),
            "berth.v1.Key.namespace: JSON name namespace became ns",
        ),
        (
            |s| field(s, "Key", "namespace").r#type = Some(Type::Bytes.into()),
            "berth.v1.Key.namespace: type string became bytes",
        ),
        (
            |s| field(s, "Resource", "key").type_name = Some(".berth.v1.Port".into()),
            "berth.v1.Resource.key: type berth.v1.Key became berth.v1.Port",
        ),
        (
            |s| field(s, "Service", "ports").label = Some(Label::Optional.into()),
            "berth.v1.Service.ports: cardinality repeated became single",
        ),
        (
            |s| {
                let uid = field(s, "Service", "uid");
                uid.proto3_optional = Some(true);
                uid.oneof_index = Some(0);
                let made = OneofDescriptorProto {
                    name: Some("_uid".into()),
                    options: None,
                };
                message(s, "Service").oneof_decl.push(made);
            },
            "berth.v1.Service.uid: cardinality single became optional",
        ),
        (
            |s| field(s, "Resource", "node").oneof_index = None,
            "berth.v1.Resource.node: oneof body became none",
        ),
        (
            |s| field(s, "Resource", "generation").oneof_index = Some(0),
            "berth.v1.Resource.generation: oneof none became body",
        ),
    ];
    for (change, sentence) in cases {
        assert_eq!(after(change), [sentence]);
    }
}

#[test]
fn what_breaks_an_enum_is_found() {
    let cases: [(Change, &str); 3] = [
        (
            |s| enumeration(s, "Kind").value.truncate(2),
            "berth.v1.Kind.KIND_NODE: the value was removed",
        ),
        (
            |s| enumeration(s, "Kind").value[2].number = Some(7),
            "berth.v1.Kind.KIND_NODE: number 2 became 7",
        ),
        (
            |s| enumeration(s, "Kind").value[2].name = Some("KIND_HOST".into()),
            "berth.v1.Kind.KIND_NODE: name became KIND_HOST",
        ),
    ];
    for (change, sentence) in cases {
        assert_eq!(after(change), [sentence]);
    }
}

#[test]
fn what_breaks_a_call_is_found() {
    let cases: [(Change, &str); 4] = [
        (
            |s| s.file[0].service[0].method.clear(),
            "berth.v1.AgentService/Sync: the call was removed",
        ),
        (
            |s| sync(s).client_streaming = Some(false),
            "berth.v1.AgentService/Sync: (stream berth.v1.AgentMessage) returns (stream berth.v1.HubMessage) \
             became (berth.v1.AgentMessage) returns (stream berth.v1.HubMessage)",
        ),
        (
            |s| sync(s).server_streaming = None,
            "berth.v1.AgentService/Sync: (stream berth.v1.AgentMessage) returns (stream berth.v1.HubMessage) \
             became (stream berth.v1.AgentMessage) returns (berth.v1.HubMessage)",
        ),
        (
            |s| sync(s).output_type = Some(".berth.v1.Welcome".into()),
            "berth.v1.AgentService/Sync: (stream berth.v1.AgentMessage) returns (stream berth.v1.HubMessage) \
             became (stream berth.v1.AgentMessage) returns (stream berth.v1.Welcome)",
        ),
    ];
    for (change, sentence) in cases {
        assert_eq!(after(change), [sentence]);
    }
}

#[test]
fn what_is_gone_as_a_whole_is_found() {
    let cases: [(Change, &str); 4] = [
        (
            |s| s.file[0].message_type.retain(|m| m.name() != "Drain"),
            "message berth.v1.Drain was removed",
        ),
        (
            |s| s.file[0].enum_type.retain(|e| e.name() != "Outcome"),
            "enum berth.v1.Outcome was removed",
        ),
        (
            |s| s.file[0].service.clear(),
            "service berth.v1.AgentService was removed",
        ),
        (
            |s| s.file[0].syntax = Some("proto2".into()),
            "berth/v1/agent.proto: syntax proto3 became proto2",
        ),
    ];
    for (change, sentence) in cases {
        assert_eq!(after(change), [sentence]);
    }
}

#[test]
fn another_package_is_another_everything() {
    let found = after(|s| s.file[0].package = Some("berth.v2".into()));
    assert_eq!(
        found[0],
        "berth/v1/agent.proto: package berth.v1 became berth.v2"
    );
    assert!(found.contains(&"message berth.v1.Hello was removed".to_owned()));
    // A file that is gone takes all its definitions with it.
    assert!(
        after(|s| s.file.clear()).contains(&"service berth.v1.AgentService was removed".into())
    );
}

#[test]
fn a_nested_definition_is_looked_into() {
    let with_inner = |number| {
        let mut set = released();
        let inner = DescriptorProto {
            name: Some("Inner".into()),
            field: vec![new_field("word", number)],
            ..Default::default()
        };
        message(&mut set, "Key").nested_type.push(inner);
        set
    };
    assert_eq!(
        breaking(&with_inner(1), &with_inner(2)),
        ["berth.v1.Key.Inner.word: number 1 became 2"]
    );
    assert_eq!(
        breaking(&with_inner(1), &released()),
        ["message berth.v1.Key.Inner was removed"]
    );
}

/// A release in which Key has reserved 7 and `tenant`, and Kind 5 and `KIND_GATEWAY`.
fn with_reserved() -> FileDescriptorSet {
    let mut set = released();
    let key = message(&mut set, "Key");
    key.reserved_name.push("tenant".into());
    key.reserved_range.push(ReservedRange {
        start: Some(7),
        end: Some(8),
    });
    let kind = enumeration(&mut set, "Kind");
    kind.reserved_name.push("KIND_GATEWAY".into());
    kind.reserved_range.push(EnumReservedRange {
        start: Some(5),
        end: Some(5),
    });
    set
}

#[test]
fn what_was_reserved_is_not_used_again() {
    let mut current = with_reserved();
    let key = message(&mut current, "Key");
    key.field.push(new_field("seventh", 7));
    key.field.push(new_field("eighth", 8));
    key.field.push(new_field("tenant", 9));
    let kind = enumeration(&mut current, "Kind");
    kind.value.push(new_value("KIND_FIFTH", 5));
    kind.value.push(new_value("KIND_GATEWAY", 6));
    assert_eq!(
        breaking(&with_reserved(), &current),
        [
            "berth.v1.Key.seventh: uses number 7, which was reserved",
            "berth.v1.Key.tenant: uses a name that was reserved",
            "berth.v1.Kind.KIND_FIFTH: uses number 5, which was reserved",
            "berth.v1.Kind.KIND_GATEWAY: uses a name that was reserved",
        ]
    );
    assert_eq!(
        breaking(&with_reserved(), &released()),
        [
            "berth.v1.Key: 7 to 7 are reserved no more",
            "berth.v1.Key: the name tenant is reserved no more",
            "berth.v1.Kind: 5 to 5 are reserved no more",
            "berth.v1.Kind: the name KIND_GATEWAY is reserved no more",
        ]
    );
}

#[test]
fn growing_breaks_nobody() {
    let found = after(|s| {
        message(s, "Key").field.push(new_field("cluster", 4));
        let mut gateway = new_field("gateway", 5);
        gateway.oneof_index = Some(0);
        message(s, "Resource").field.push(gateway);
        enumeration(s, "Kind")
            .value
            .push(new_value("KIND_GATEWAY", 3));
        let mut call = sync(s).clone();
        call.name = Some("Inspect".into());
        s.file[0].service[0].method.push(call);
        s.file[0].message_type.push(DescriptorProto {
            name: Some("Gateway".into()),
            ..Default::default()
        });
        message(s, "Drain").reserved_range.push(ReservedRange {
            start: Some(9),
            end: Some(10),
        });
        // Comments, and the order in which things stand.
        s.file[0].source_code_info = None;
        message(s, "Key").field.reverse();
        s.file[0].message_type.reverse();
    });
    assert_eq!(found, Vec::<String>::new());
}
