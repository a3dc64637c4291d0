// The internal plane is silent, checked in CI: its sources make no span, no log line and no metric, start no timeout and
// no retry of Effect's per operation, and print nothing. What is allowed all the same stands in `exceptions`, each with its
// reason; one that is not needed any more is an error too. With a folder as its argument that folder is checked instead of
// this repository, which is how the tests see that a violation is found.
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { join, relative } from "node:path"
import ts from "typescript"
import { root } from "./pnpm.mjs"

/** What belongs to the internal plane. Of core's `internal` all that is not named in `otherPlane`. */
const folders = [
  "packages/redis/src",
  "packages/core/src/state",
  "packages/core/src/events",
  "packages/core/src/storage",
  "packages/core/src/internal"
]
const otherPlane = [
  "packages/core/src/internal/conformance",
  "packages/core/src/internal/external",
  "packages/core/src/internal/resilience",
  "packages/core/src/internal/settings"
]

/** What is allowed: in this declaration of this file, this member. */
const exceptions = [
  {
    file: "packages/core/src/state/SessionEvents.ts",
    within: "log",
    member: "Effect.log*",
    reason: "`layerLog`, the optional layer that writes the events of sessions as log lines"
  },
  {
    file: "packages/core/src/state/SessionStore.ts",
    within: "corruptRule",
    member: "Effect.log*",
    reason: "the one warning for a corrupt entry"
  },
  {
    file: "packages/core/src/state/ConversationMemory.ts",
    within: "make",
    member: "Effect.log*",
    reason: "the one warning for a corrupt entry"
  },
  {
    file: "packages/redis/src/RedisCircuitControl.ts",
    within: "make",
    member: "Effect.log*",
    reason: "the one warning for a corrupt entry"
  },
  {
    file: "packages/core/src/internal/callReferences.ts",
    within: "import",
    member: "effect/Tracer",
    reason: "takes the span and the ids of the first caller away from a layer that is made on demand, and makes none"
  },
  {
    file: "packages/core/src/internal/callReferences.ts",
    within: "import",
    member: "../operations/Correlation.ts",
    reason: "the same"
  },
  {
    file: "packages/core/src/internal/connection/poolMetrics.ts",
    within: "import",
    member: "effect/Metric",
    reason: "`Connections.layerMetrics`, the optional layer that looks at all pools every few seconds"
  },
  {
    file: "packages/core/src/internal/connection/poolMetrics.ts",
    within: "import",
    member: "effect/MetricBoundaries",
    reason: "the same"
  },
  {
    file: "packages/redis/src/RedisHealth.ts",
    within: "report",
    member: "Effect.timeout*",
    reason: "a health check with a time of its own, asked a few times a minute, is no operation of a store"
  }
]

/** Members of a module of Effect that emit something or cost too much per operation, by the name that exceptions use. */
const members = [
  {
    names: /^(?:log|annotateLogs|annotateSpans|annotateCurrentSpan|annotateLogsScoped|labelMetrics|tagMetrics)/,
    as: (module, name) => (name.startsWith("log") ? `${module}.log*` : `${module}.annotate*`),
    modules: /^(?:Effect|Stream|Layer|Channel|Sink|STM|Micro)$/
  },
  {
    names:
      /^(?:withSpan|withSpanScoped|withParentSpan|makeSpan|makeSpanScoped|useSpan|span|parentSpan|currentSpan|linkSpan|withLogSpan|withTracer|withTracerScoped|spanAnnotations)/,
    as: (module) => `${module}.withSpan`,
    modules: /^(?:Effect|Stream|Layer|Channel|Micro)$/
  },
  {
    names: /^(?:withMetric|trackDefects|trackDuration|trackErrors|trackSuccesses|trackAll)/,
    as: (module) => `${module}.withMetric`,
    modules: /^(?:Effect|Stream)$/
  },
  { names: /^fn$/, as: (module) => `${module}.fn`, modules: /^Effect$/ },
  { names: /^timeout/, as: (module) => `${module}.timeout*`, modules: /^(?:Effect|Stream|Micro)$/ },
  { names: /^retry/, as: (module) => `${module}.retry*`, modules: /^(?:Effect|Stream|Layer|STM|Micro)$/ }
]

/** Modules that have no business here. */
const modules = [
  /^effect\/(?:Metric\w*|Tracer|Logger|Console|LogSpan|Supervisor)$/,
  /^@effect\/opentelemetry(?:\/|$)/,
  /^@opentelemetry\//,
  /^node:(?:console|diagnostics_channel|trace_events)$/,
  /\/(?:operations\/(?:Logging|Telemetry|Correlation))(?:\.ts)?$/,
  /\/external\/External(?:Client|Http)(?:\.ts)?$/
]
const barrelNames = /^(?:Metric\w*|Tracer|Logger|Console|Supervisor)$/

const memberOf = (module, name) =>
  members.find((member) => member.modules.test(module) && member.names.test(name))?.as(module, name)

/** The name of the declaration at the top of the file that a node is in; `import` in an import. */
const placeOf = (node) => {
  let top = node
  while (top.parent !== undefined && !ts.isSourceFile(top.parent)) top = top.parent
  if (ts.isImportDeclaration(top) || ts.isExportDeclaration(top)) return "import"
  if (ts.isVariableStatement(top)) return top.declarationList.declarations.map(({ name }) => name.getText()).join(", ")
  return top.name?.getText() ?? "the module"
}

/** What one file does that it must not: the name that exceptions use, where, and the line. */
const violations = (file, text) => {
  const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true)
  const found = []
  const report = (node, member) =>
    found.push({
      member,
      within: placeOf(node),
      line: source.getLineAndCharacterOfPosition(node.getStart(source)).line + 1
    })

  /** Local names of Effect's modules: `Effect` or whatever the file calls them. */
  const names = new Map()
  for (const statement of source.statements) {
    if (!ts.isImportDeclaration(statement) && !ts.isExportDeclaration(statement)) continue
    if (statement.moduleSpecifier === undefined) continue
    const from = statement.moduleSpecifier.text
    const clause = ts.isImportDeclaration(statement) ? statement.importClause : undefined
    if (clause?.isTypeOnly || statement.isTypeOnly) continue
    if (modules.some((module) => module.test(from))) report(statement, from)
    const bindings = clause?.namedBindings
    if (bindings === undefined) continue
    const module = /^effect\/(\w+)$/.exec(from)?.[1]
    if (ts.isNamespaceImport(bindings)) {
      if (from === "effect") names.set(bindings.name.text, "*")
      else if (module !== undefined) names.set(bindings.name.text, module)
      continue
    }
    for (const element of bindings.elements) {
      if (element.isTypeOnly) continue
      const imported = (element.propertyName ?? element.name).text
      if (from === "effect") {
        if (barrelNames.test(imported)) report(element, `effect/${imported}`)
        names.set(element.name.text, imported)
      } else if (module !== undefined) {
        const member = memberOf(module, imported)
        if (member !== undefined) report(element, member)
      }
    }
  }

  /** The module of Effect that an expression stands for. */
  const moduleOf = (node) => {
    if (ts.isIdentifier(node)) return names.get(node.text)
    if (ts.isPropertyAccessExpression(node) && moduleOf(node.expression) === "*") return node.name.text
    return undefined
  }
  const visit = (node) => {
    const key = ts.isPropertyAccessExpression(node)
      ? node.name.text
      : ts.isElementAccessExpression(node) && ts.isStringLiteralLike(node.argumentExpression)
        ? node.argumentExpression.text
        : undefined
    if (key !== undefined) {
      const object = node.expression
      const module = moduleOf(object)
      if (module === "*" && barrelNames.test(key)) report(node, `effect/${key}`)
      const member = module === undefined ? undefined : memberOf(module, key)
      if (member !== undefined) report(node, member)
      if (ts.isIdentifier(object) && object.text === "console") report(node, "console")
      if (ts.isIdentifier(object) && object.text === "process" && /^(?:stdout|stderr|emitWarning)$/.test(key)) {
        report(node, `process.${key}`)
      }
      if (ts.isIdentifier(object) && object.text === "globalThis" && key === "console") report(node, "console")
    }
    // const { withSpan } = Effect
    if (ts.isVariableDeclaration(node) && ts.isObjectBindingPattern(node.name) && node.initializer !== undefined) {
      const module = moduleOf(node.initializer)
      for (const element of module === undefined ? [] : node.name.elements) {
        const member = memberOf(module, (element.propertyName ?? element.name).getText(source))
        if (member !== undefined) report(element, member)
      }
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

const filesOf = (base) =>
  folders
    .map((folder) => join(base, folder))
    .filter((folder) => existsSync(folder))
    .flatMap((folder) =>
      readdirSync(folder, { recursive: true })
        .filter((name) => /\.[cm]?tsx?$/.test(name))
        .map((name) => relative(base, join(folder, name)).replaceAll("\\", "/"))
    )
    .filter((file) => !otherPlane.some((folder) => file.startsWith(`${folder}/`)))
    .sort()

const [given] = process.argv.slice(2)
const base = given ?? root
const files = filesOf(base)
const problems = files.length === 0 ? [`no sources below ${folders.join(", ")}`] : []
const needed = new Set()
for (const file of files) {
  for (const { line, member, within } of violations(file, readFileSync(join(base, file), "utf8"))) {
    const exception = exceptions.find((one) => one.file === file && one.within === within && one.member === member)
    if (exception === undefined)
      problems.push(`${file}:${line} ${member} in ${within}: the internal plane emits nothing`)
    else needed.add(exception)
  }
}
for (const exception of exceptions) {
  if (needed.has(exception) || (given !== undefined && !files.includes(exception.file))) continue
  problems.push(`${exception.file}: the exception for ${exception.member} in ${exception.within} is not needed`)
}
if (problems.length > 0) {
  console.error(problems.join("\n"))
  process.exit(1)
}
console.log(`${files.length} files of the internal plane emit nothing (${exceptions.length} named exceptions)`)
