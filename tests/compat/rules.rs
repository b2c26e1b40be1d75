//! The rules, as one pure function from two descriptor sets to sentences. They are those of `buf breaking` in its categories
//! WIRE and WIRE_JSON, and stricter in one point: what was released is not removed, reserved or not, for an older peer
//! still sends it.

use std::collections::{BTreeMap, BTreeSet};

use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    MethodDescriptorProto, ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

/// Everything in `current` that a peer of `released` would not understand, or would understand otherwise.
pub(crate) fn breaking(released: &FileDescriptorSet, current: &FileDescriptorSet) -> Vec<String> {
    let mut found = Vec::new();
    files(released, current, &mut found);
    let (was, is) = (Index::of(released), Index::of(current));
    for (name, was) in &was.messages {
        match is.messages.get(name) {
            Some(is) => message(name, was, is, &mut found),
            None => found.push(format!("message {name} was removed")),
        }
    }
    for (name, was) in &was.enums {
        match is.enums.get(name) {
            Some(is) => enumeration(name, was, is, &mut found),
            None => found.push(format!("enum {name} was removed")),
        }
    }
    for (name, was) in &was.services {
        match is.services.get(name) {
            Some(is) => service(name, was, is, &mut found),
            None => found.push(format!("service {name} was removed")),
        }
    }
    found
}

/// All definitions of a set by their full names, nested ones too.
#[derive(Default)]
struct Index<'a> {
    messages: BTreeMap<String, &'a DescriptorProto>,
    enums: BTreeMap<String, &'a EnumDescriptorProto>,
    services: BTreeMap<String, &'a ServiceDescriptorProto>,
}

impl<'a> Index<'a> {
    fn of(set: &'a FileDescriptorSet) -> Self {
        let mut index = Self::default();
        for file in &set.file {
            let package = file.package();
            for message in &file.message_type {
                index.nest(package, message);
            }
            for each in &file.enum_type {
                index.enums.insert(full(package, each.name()), each);
            }
            for each in &file.service {
                index.services.insert(full(package, each.name()), each);
            }
        }
        index
    }

    fn nest(&mut self, scope: &str, message: &'a DescriptorProto) {
        let name = full(scope, message.name());
        for inner in &message.nested_type {
            self.nest(&name, inner);
        }
        for each in &message.enum_type {
            self.enums.insert(full(&name, each.name()), each);
        }
        self.messages.insert(name, message);
    }
}

fn full(scope: &str, name: &str) -> String {
    format!("{scope}.{name}")
}

fn files(released: &FileDescriptorSet, current: &FileDescriptorSet, found: &mut Vec<String>) {
    for was in &released.file {
        let Some(is) = current.file.iter().find(|f| f.name() == was.name()) else {
            continue; // Where a definition stands does not matter: those of a lost file are found missing.
        };
        if was.package() != is.package() {
            found.push(format!(
                "{}: package {} became {}",
                was.name(),
                was.package(),
                is.package()
            ));
        }
        if was.syntax() != is.syntax() {
            found.push(format!(
                "{}: syntax {} became {}",
                was.name(),
                was.syntax(),
                is.syntax()
            ));
        }
    }
}

fn message(name: &str, was: &DescriptorProto, is: &DescriptorProto, found: &mut Vec<String>) {
    for field in &was.field {
        let at = format!("{name}.{}", field.name());
        match is.field.iter().find(|f| f.number() == field.number()) {
            Some(now) => changed_field(&at, (was, field), (is, now), found),
            None => match is.field.iter().find(|f| f.name() == field.name()) {
                Some(now) => found.push(format!(
                    "{at}: number {} became {}",
                    field.number(),
                    now.number()
                )),
                None => found.push(format!("{at}: the field was removed")),
            },
        }
    }
    let numbers: Vec<_> = was
        .reserved_range
        .iter()
        .map(|r| (r.start(), r.end() - 1)) // of a message, the end is not in the range
        .collect();
    let kept: Vec<_> = is
        .reserved_range
        .iter()
        .map(|r| (r.start(), r.end() - 1))
        .collect();
    let members: Vec<_> = is.field.iter().map(|f| (f.number(), f.name())).collect();
    reserved(name, &numbers, &was.reserved_name, &members, found);
    still_reserved(
        name,
        (&numbers, &was.reserved_name),
        (&kept, &is.reserved_name),
        found,
    );
}

fn changed_field(
    at: &str,
    (old, was): (&DescriptorProto, &FieldDescriptorProto),
    (new, is): (&DescriptorProto, &FieldDescriptorProto),
    found: &mut Vec<String>,
) {
    let mut differ = |what: &str, was: String, is: String| {
        if was != is {
            found.push(format!("{at}: {what} {was} became {is}"));
        }
    };
    differ("name", was.name().into(), is.name().into());
    differ("JSON name", was.json_name().into(), is.json_name().into());
    differ("type", type_of(was), type_of(is));
    differ("cardinality", cardinality(was), cardinality(is));
    differ("oneof", oneof(old, was), oneof(new, is));
}

fn type_of(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum | Type::Group => {
            field.type_name().trim_start_matches('.').into()
        }
        scalar => scalar.as_str_name().to_lowercase().replace("type_", ""),
    }
}

fn cardinality(field: &FieldDescriptorProto) -> String {
    match field.label() {
        Label::Repeated => "repeated",
        Label::Required => "required",
        Label::Optional if field.proto3_optional() => "optional",
        Label::Optional => "single",
    }
    .into()
}

/// The oneof that a field is a member of. The one that the compiler makes for `optional` is none.
fn oneof(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    field
        .oneof_index
        .filter(|_| !field.proto3_optional())
        .and_then(|i| message.oneof_decl.get(usize::try_from(i).ok()?))
        .map_or_else(|| "none".into(), |o| o.name().into())
}

fn enumeration(
    name: &str,
    was: &EnumDescriptorProto,
    is: &EnumDescriptorProto,
    found: &mut Vec<String>,
) {
    for value in &was.value {
        // By name first: with allow_alias several names share a number.
        match is.value.iter().find(|v| v.name() == value.name()) {
            Some(now) if now.number() == value.number() => {}
            Some(now) => found.push(format!(
                "{name}.{}: number {} became {}",
                value.name(),
                value.number(),
                now.number()
            )),
            None => match is.value.iter().find(|v| v.number() == value.number()) {
                Some(now) => found.push(format!(
                    "{name}.{}: name became {}",
                    value.name(),
                    now.name()
                )),
                None => found.push(format!("{name}.{}: the value was removed", value.name())),
            },
        }
    }
    let numbers: Vec<_> = was
        .reserved_range
        .iter()
        .map(|r| (r.start(), r.end())) // of an enum, the end is in the range
        .collect();
    let kept: Vec<_> = is
        .reserved_range
        .iter()
        .map(|r| (r.start(), r.end()))
        .collect();
    let members: Vec<_> = is.value.iter().map(|v| (v.number(), v.name())).collect();
    reserved(name, &numbers, &was.reserved_name, &members, found);
    still_reserved(
        name,
        (&numbers, &was.reserved_name),
        (&kept, &is.reserved_name),
        found,
    );
}

/// What was reserved belonged to an even older release.
fn reserved(
    name: &str,
    numbers: &[(i32, i32)],
    names: &[String],
    members: &[(i32, &str)],
    found: &mut Vec<String>,
) {
    for (number, member) in members {
        if numbers.iter().any(|(a, z)| (a..=z).contains(&number)) {
            found.push(format!(
                "{name}.{member}: uses number {number}, which was reserved"
            ));
        }
        if names.iter().any(|n| n == member) {
            found.push(format!("{name}.{member}: uses a name that was reserved"));
        }
    }
}

type Reserved<'a> = (&'a [(i32, i32)], &'a [String]);

fn still_reserved(name: &str, was: Reserved<'_>, is: Reserved<'_>, found: &mut Vec<String>) {
    for (a, z) in was.0 {
        if !is.0.iter().any(|(b, y)| b <= a && z <= y) {
            found.push(format!("{name}: {a} to {z} are reserved no more"));
        }
    }
    let names: BTreeSet<_> = is.1.iter().collect();
    for gone in was.1.iter().filter(|n| !names.contains(n)) {
        found.push(format!("{name}: the name {gone} is reserved no more"));
    }
}

fn service(
    name: &str,
    was: &ServiceDescriptorProto,
    is: &ServiceDescriptorProto,
    found: &mut Vec<String>,
) {
    for method in &was.method {
        let at = format!("{name}/{}", method.name());
        match is.method.iter().find(|m| m.name() == method.name()) {
            Some(now) if signature(now) != signature(method) => {
                found.push(format!(
                    "{at}: {} became {}",
                    signature(method),
                    signature(now)
                ));
            }
            Some(_) => {}
            None => found.push(format!("{at}: the call was removed")),
        }
    }
}

fn signature(method: &MethodDescriptorProto) -> String {
    let side = |streams: bool, name: &str| {
        let stream = if streams { "stream " } else { "" };
        format!("{stream}{}", name.trim_start_matches('.'))
    };
    format!(
        "({}) returns ({})",
        side(method.client_streaming(), method.input_type()),
        side(method.server_streaming(), method.output_type())
    )
}
