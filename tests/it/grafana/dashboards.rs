//! The dashboards as they are in their files.

use std::fs;
use std::ops::Range;

use serde_json::Value;

use super::files;

pub struct Dashboard {
    pub name: String,
    pub uid: String,
    pub title: String,
    pub panels: Vec<Panel>,
}

pub struct Panel {
    pub id: usize,
    pub kind: String,
    pub title: String,
    pub description: String,
    pub unit: String,
    pub link: String,
    pub datasource: String,
    pub columns: Range<u64>,
    pub rows: Range<u64>,
    pub queries: Vec<Query>,
}

pub struct Query {
    pub expression: String,
    pub legend: String,
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}

/// All of them, by name.
pub fn dashboards() -> Vec<Dashboard> {
    let read = |(name, path)| {
        let dashboard: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        let panels = dashboard["panels"].as_array().unwrap().iter().map(panel).collect();
        Dashboard {
            name,
            uid: text(&dashboard["uid"]),
            title: text(&dashboard["title"]),
            panels,
        }
    };
    files("dashboards", "json").into_iter().map(read).collect()
}

fn panel(panel: &Value) -> Panel {
    let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
    let links = panel["links"].as_array().unwrap();
    assert_eq!(links.len(), 1, "{panel}");
    let queries = panel["targets"].as_array().unwrap().iter().map(|target| Query {
        expression: text(&target["expr"]),
        legend: text(&target["legendFormat"]),
    });
    Panel {
        id: usize::try_from(panel["id"].as_u64().unwrap()).unwrap(),
        kind: text(&panel["type"]),
        title: text(&panel["title"]),
        description: text(&panel["description"]),
        unit: text(&panel["fieldConfig"]["defaults"]["unit"]),
        link: text(&links[0]["url"]),
        datasource: text(&panel["datasource"]["uid"]),
        columns: at("x")..at("x") + at("w"),
        rows: at("y")..at("y") + at("h"),
        queries: queries.collect(),
    }
}
