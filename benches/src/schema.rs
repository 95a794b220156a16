//! As much of JSON Schema as the shipped schemas use, for the tests that hold
//! our output against them.

use serde_json::Value;

/// What is wrong with `value` by the schema of this text, each with its place; empty when nothing is.
pub fn faults(schema: &str, value: &Value) -> Vec<String> {
    let schema: Value = serde_json::from_str(schema).expect("the schema is JSON");
    let mut found = Vec::new();
    walk(&schema, &schema, value, "", &mut found);
    found
}

fn walk(root: &Value, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(&reference[1..]).expect("a definition");
        return walk(root, target, value, at, found);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = any.iter().any(|schema| {
            let mut inner = Vec::new();
            walk(root, schema, value, at, &mut inner);
            inner.is_empty()
        });
        if !fits {
            found.push(format!("{at}: none of anyOf"));
        }
        return;
    }
    let kinds = match &schema["type"] {
        Value::String(kind) => vec![kind.as_str()],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is = |kind: &str| match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        _ => value.is_null(),
    };
    if !kinds.is_empty() && !kinds.into_iter().any(is) {
        found.push(format!("{at}: {value} is no {}", schema["type"]));
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        found.push(format!("{at}: {value} is none of {allowed:?}"));
    }
    if !schema["const"].is_null() && schema["const"] != *value {
        found.push(format!("{at}: {value} is not {}", schema["const"]));
    }
    for item in value.as_array().into_iter().flatten() {
        walk(root, &schema["items"], item, at, found);
    }
    let Some(object) = value.as_object() else {
        return;
    };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !object.contains_key(name.as_str().expect("a name")) {
            found.push(format!("{at}: {name} is missing"));
        }
    }
    for (name, value) in object {
        let at = format!("{at}/{name}");
        match schema["properties"].get(name) {
            Some(schema) => walk(root, schema, value, &at, found),
            None if schema["additionalProperties"] == Value::Bool(false) => {
                found.push(format!("{at}: not in the schema"));
            }
            None => walk(root, &schema["additionalProperties"], value, &at, found),
        }
    }
}
