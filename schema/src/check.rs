//! A light type check of rules: the API server refuses a definition whose rules name fields or functions that are
//! not there, and so do we, instead of failing when the rule is first used.

use cel::Program;
use cel::common::ast::{Expr, IdedExpr};

use super::node::Node;
use super::rule::escape;

/// Functions that are not operators.
const FUNCTIONS: &[&str] = &[
    "all",
    "bool",
    "bytes",
    "charAt",
    "cidr",
    "contains",
    "containsCIDR",
    "containsIP",
    "distinct",
    "double",
    "dyn",
    "endsWith",
    "exists",
    "exists_one",
    "family",
    "filter",
    "flatten",
    "format",
    "hasValue",
    "indexOf",
    "int",
    "ip",
    "isCIDR",
    "isCanonical",
    "isGlobalUnicast",
    "isIP",
    "isLinkLocalMulticast",
    "isLinkLocalUnicast",
    "isLoopback",
    "isUnspecified",
    "join",
    "lastIndexOf",
    "lowerAscii",
    "map",
    "masked",
    "matches",
    "none",
    "of",
    "ofNonZeroValue",
    "optMap",
    "orValue",
    "or",
    "prefixLength",
    "range",
    "replace",
    "reverse",
    "size",
    "slice",
    "sort",
    "split",
    "startsWith",
    "string",
    "substring",
    "trim",
    "type",
    "uint",
    "upperAscii",
    "value",
];

/// What is known of the value of an expression.
#[derive(Clone, Copy)]
enum Known<'a> {
    /// A value with this schema.
    Typed(&'a Node),
    /// `self` at the root of the object.
    Root(&'a Node),
    /// Anything.
    Nothing,
}

/// What the program names that is not there.
pub(super) fn complaint(program: &Program, node: &Node, root: bool) -> Option<String> {
    let references = program.references();
    let unknown = references.functions().into_iter().find(|name| {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.starts_with('_');
        plain && !FUNCTIONS.contains(name)
    });
    if let Some(name) = unknown {
        return Some(format!("undeclared reference to '{name}'"));
    }
    let this = if root { Known::Root(node) } else { Known::Typed(node) };
    let mut checker = Checker { scope: vec![("self", this), ("oldSelf", this)], complaint: None };
    checker.visit(program.expression());
    checker.complaint
}

struct Checker<'a> {
    scope: Vec<(&'a str, Known<'a>)>,
    complaint: Option<String>,
}

impl<'a> Checker<'a> {
    fn visit(&mut self, expression: &'a IdedExpr) -> Known<'a> {
        match &expression.expr {
            Expr::Ident(name) => {
                let found = self.scope.iter().rev().find(|(known, _)| known == name);
                found.map_or(Known::Nothing, |(_, known)| *known)
            }
            Expr::Select(select) => {
                let operand = self.visit(&select.operand);
                self.member(operand, &select.field)
            }
            Expr::Call(call) => {
                if let Some(target) = &call.target {
                    self.visit(target);
                }
                let arguments: Vec<Known<'a>> = call.args.iter().map(|arg| self.visit(arg)).collect();
                match (call.func_name.as_str(), arguments.as_slice()) {
                    ("_?_:_", [_, yes, _]) => *yes,
                    ("_[_]", [Known::Typed(node), _]) => {
                        let element = node.items.as_deref().or(node.additional.as_deref());
                        element.map_or(Known::Nothing, Known::Typed)
                    }
                    _ => Known::Nothing,
                }
            }
            Expr::List(list) => {
                for element in &list.elements {
                    self.visit(element);
                }
                Known::Nothing
            }
            Expr::Comprehension(loop_) => {
                let range = self.visit(&loop_.iter_range);
                let element = match range {
                    Known::Typed(node) => node.items.as_deref().map_or(Known::Nothing, Known::Typed),
                    Known::Root(_) | Known::Nothing => Known::Nothing,
                };
                self.visit(&loop_.accu_init);
                let depth = self.scope.len();
                self.scope.push((&loop_.iter_var, element));
                self.scope.extend(loop_.iter_var2.as_deref().map(|name| (name, Known::Nothing)));
                self.scope.push((&loop_.accu_var, Known::Nothing));
                self.visit(&loop_.loop_cond);
                self.visit(&loop_.loop_step);
                self.visit(&loop_.result);
                self.scope.truncate(depth);
                Known::Nothing
            }
            Expr::Map(_) | Expr::Struct(_) | Expr::Literal(_) | Expr::Unspecified => Known::Nothing,
        }
    }

    fn member(&mut self, operand: Known<'a>, field: &str) -> Known<'a> {
        let (node, root) = match operand {
            Known::Typed(node) => (node, false),
            Known::Root(node) => (node, true),
            Known::Nothing => return Known::Nothing,
        };
        if root && super::OF_EVERY_OBJECT.contains(&field) {
            return Known::Nothing;
        }
        if let Some((_, child)) = node.properties.iter().find(|(key, _)| escape(key) == field) {
            return Known::Typed(child);
        }
        if let Some(additional) = node.additional.as_deref() {
            return Known::Typed(additional);
        }
        if node.kind == "object" && !node.embedded_resource {
            self.complaint.get_or_insert_with(|| format!("undefined field '{field}'"));
        }
        Known::Nothing
    }
}
