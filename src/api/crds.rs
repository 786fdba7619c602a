//! The CustomResourceDefinitions, generated from the types of the four kinds: `link-operator crds` writes them.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::json;

use super::{integration_runtime::IntegrationRuntime, landing_zone::LandingZone, link_connection::LinkConnection, link_table::LinkTable};

/// The definitions of the four kinds, as they are installed.
pub fn all() -> Vec<CustomResourceDefinition> {
    [LinkConnection::crd(), LinkTable::crd(), LandingZone::crd(), IntegrationRuntime::crd()].map(finish).into()
}

/// File name and text of each definition.
pub fn yaml() -> Result<Vec<(String, String)>, serde_yaml::Error> {
    all().into_iter().map(|crd| Ok((format!("{}.yaml", crd.spec.names.plural), serde_yaml::to_string(&crd)?))).collect()
}

/// What derived schemas lack or have too much of.
fn finish(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let Some(root) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) else { continue };
        tidy(root);
        // Tools that wait for an object (kubectl, Argo CD, Flux) compare generations: before the controller has seen the object
        // it must not look done.
        if let Some(status) = root.properties.as_mut().and_then(|properties| properties.get_mut("status")) {
            status.default = Some(JSON(json!({"observedGeneration": -1})));
            if let Some(seen) = status.properties.as_mut().and_then(|properties| properties.get_mut("observedGeneration")) {
                seen.default = Some(JSON(json!(-1)));
            }
        }
    }
    crd
}

/// Removes from a schema, all the way down, what Kubernetes does not know or what would say the wrong thing:
/// - `nullable`: without it an explicit null is dropped before defaults and rules, so null and absent are the same;
/// - `format: uint…`: Rust's, unknown to OpenAPI; the bounds beside it say the same.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    if schema.format.as_deref().is_some_and(|format| format.starts_with("uint")) {
        schema.format = None;
    }
    for property in schema.properties.iter_mut().flat_map(|properties| properties.values_mut()) {
        tidy(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => tidy(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(tidy),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy(values);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;

    /// Calls `check` with the path and schema of every part of every kind.
    fn visit(check: &mut impl FnMut(&str, &JSONSchemaProps)) {
        fn walk(path: &str, schema: &JSONSchemaProps, check: &mut impl FnMut(&str, &JSONSchemaProps)) {
            check(path, schema);
            for (name, property) in schema.properties.iter().flatten() {
                walk(&format!("{path}.{name}"), property, check);
            }
            if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
                walk(&format!("{path}[]"), items, check);
            }
            if let Some(JSONSchemaPropsOrBool::Schema(values)) = &schema.additional_properties {
                walk(&format!("{path}{{}}"), values, check);
            }
        }
        for crd in all() {
            for version in &crd.spec.versions {
                let root = version.schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
                walk(&crd.spec.names.kind, root, check);
            }
        }
    }

    #[test]
    fn files_are_what_the_types_say() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        for folder in ["crds", "charts/link-operator-crds/files"] {
            let mut expected = BTreeSet::new();
            for (name, text) in yaml().unwrap() {
                let found = std::fs::read_to_string(root.join(folder).join(&name)).unwrap_or_default();
                assert!(found == text, "{folder}/{name} differs from src/api: run `make crds` and commit the result");
                expected.insert(name);
            }
            let mut found: BTreeSet<_> =
                std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            if found.remove("kustomization.yaml") {
                let text = std::fs::read_to_string(root.join(folder).join("kustomization.yaml")).unwrap();
                let named: serde_json::Value = serde_yaml::from_str(&text).unwrap();
                assert_eq!(named["resources"], json!(expected), "{folder}/kustomization.yaml");
            }
            assert_eq!(found, expected, "{folder} holds files of kinds that are no more");
        }
    }

    #[test]
    fn every_field_tells_what_it_is() {
        let mut silent = Vec::new();
        visit(&mut |path, schema| {
            // Elements of lists and maps are told about by their list.
            if schema.description.as_deref().unwrap_or_default().is_empty() && !path.ends_with("[]") && !path.ends_with("{}") {
                silent.push(path.to_owned());
            }
        });
        assert!(silent.is_empty(), "without a doc comment: {silent:#?}");
    }

    #[test]
    fn everything_that_users_write_is_bounded() {
        // Kubernetes' own types come as they are; the lists that hold them are bounded.
        let foreign = ["affinity", "tolerations[]", "topologySpreadConstraints[]", "imagePullSecrets[]"];
        let mut unbounded = Vec::new();
        visit(&mut |path, schema| {
            let Some((_, field)) = path.split_once(".spec.") else { return };
            if foreign.iter().any(|name| field.contains(name)) {
                return;
            }
            let bounded = match schema.type_.as_deref() {
                Some("string") => schema.max_length.is_some() || schema.enum_.is_some(),
                Some("array") => schema.max_items.is_some(),
                Some("integer" | "number") => schema.minimum.is_some() && schema.maximum.is_some(),
                Some("object") => schema.additional_properties.is_none() || schema.max_properties.is_some(),
                Some("boolean") => true,
                _ => false,
            };
            if !bounded {
                unbounded.push(path.to_owned());
            }
        });
        assert!(unbounded.is_empty(), "without bounds: {unbounded:#?}");
    }

    #[test]
    fn name_bound_of_links_is_the_constant() {
        let crd = LinkConnection::crd();
        let rule = format!("self.metadata.name.size() <= {}", super::super::link_connection::MAX_LINK_NAME);
        assert!(serde_json::to_string(&crd).unwrap().contains(&rule), "the rule says otherwise than MAX_LINK_NAME");
    }
}
