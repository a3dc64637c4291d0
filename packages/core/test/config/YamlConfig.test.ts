// biome-ignore-all lint/suspicious/noTemplateCurlyInString: references in YAML look like this
import { assert, describe, it } from "@effect/vitest"
import { Effect, Either, FastCheck, Option } from "effect"
import { formatProblem } from "../../src/config/SettingsError.ts"
import * as YamlConfig from "../../src/config/YamlConfig.ts"

const variables =
  (set: Record<string, string>): YamlConfig.Variables =>
  (name) =>
    Effect.succeed(Option.fromNullable(set[name]))

const parse = (text: string, set: Record<string, string> = {}) =>
  YamlConfig.parse(text, { file: "a.yaml", variables: variables(set) })

const plain = (node: YamlConfig.Node): unknown => {
  switch (node._tag) {
    case "Scalar":
      return node.value
    case "List":
      return node.items.map(plain)
    case "Table":
      return Object.fromEntries(Array.from(node.entries, ([name, child]) => [name, plain(child)]))
    case "Absent":
      return node.cleared ? null : undefined
  }
}

const data = (text: string, set: Record<string, string> = {}) => Effect.map(parse(text, set), plain)

const problems = (text: string, set: Record<string, string> = {}) =>
  Effect.map(Effect.flip(parse(text, set)), (error) => error.problems.map(formatProblem))

describe("YamlConfig", () => {
  it.effect("every value knows its line and column", () =>
    Effect.gen(function* () {
      const root = yield* parse("# comment\nredis:\n  host: localhost\n  ports: [1,\n    2]\n")
      assert.isTrue(root._tag === "Table")
      const redis = root._tag === "Table" ? root.entries.get("redis") : undefined
      const host = redis?._tag === "Table" ? redis.entries.get("host") : undefined
      assert.deepStrictEqual(host?.origin, { type: "file", file: "a.yaml", line: 3, column: 9 })
      const ports = redis?._tag === "Table" ? redis.entries.get("ports") : undefined
      const second = ports?._tag === "List" ? ports.items[1] : undefined
      assert.deepStrictEqual(second?.origin, { type: "file", file: "a.yaml", line: 5, column: 5 })
    })
  )

  it.effect("plain scalars are typed, quoted ones and blocks stay text", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(
        yield* data(
          'a: 1\nb: "1"\nc: true\nd: \'true\'\ne: 1.5e3\nf: ~\ng:\nh: yes\ni: 0x10\nj: |\n  1\nk: "${N}"\nl: ${N}\nm: !!str 5',
          { N: "7" }
        ),
        { a: 1, b: "1", c: true, d: "true", e: 1500, f: null, g: null, h: "yes", i: 16, j: "1\n", k: "7", l: 7, m: "5" }
      )
    })
  )

  it.effect("${VAR}, ${VAR:default} and ${VAR:-default}", () =>
    Effect.gen(function* () {
      const text = (value: string) =>
        Effect.map(data(`v: '${value}'`, { SET: "set", EMPTY: "" }), (all) => Object(all).v)
      assert.strictEqual(yield* text("${SET}"), "set")
      assert.strictEqual(yield* text("${SET:other}"), "set")
      assert.strictEqual(yield* text("${UNSET:other}"), "other")
      assert.strictEqual(yield* text("${UNSET:-other}"), "other")
      assert.strictEqual(yield* text("${UNSET:}"), "")
      assert.strictEqual(yield* text("${EMPTY:other}"), "")
      assert.strictEqual(yield* text("${EMPTY:-other}"), "other")
      assert.strictEqual(yield* text("${UNSET}"), undefined)
      assert.strictEqual(yield* text("a ${SET} b ${UNSET:c}"), "a set b c")
      assert.strictEqual(yield* text("a ${UNSET} b"), undefined)
    })
  )

  it.effect("a default runs to the matching brace: URLs, JSON and references inside it", () =>
    Effect.gen(function* () {
      const text = (value: string) => Effect.map(data(`v: '${value}'`, { SET: "set" }), (all) => Object(all).v)
      assert.strictEqual(yield* text("${URL:https://u:p@host:8080/a?b=c}"), "https://u:p@host:8080/a?b=c")
      assert.strictEqual(yield* text('${T:{"a":{"b":1}}}!'), '{"a":{"b":1}}!')
      assert.strictEqual(yield* text("${A:${B:inner}}"), "inner")
      assert.strictEqual(yield* text("${A:x${SET}y}z"), "xsetyz")
      assert.strictEqual(yield* text("${A:${B}}"), undefined)
    })
  )

  it.effect("$$ escapes, a lone $ is text, and values are not searched again", () =>
    Effect.gen(function* () {
      const text = (value: string) =>
        Effect.map(data(`v: '${value}'`, { SET: "set", TRICK: "${SET} $$" }), (all) => Object(all).v)
      assert.strictEqual(yield* text("$${SET}"), "${SET}")
      assert.strictEqual(yield* text("pa$$word"), "pa$word")
      assert.strictEqual(yield* text("$$$${SET}"), "$${SET}")
      assert.strictEqual(yield* text("$$${SET}"), "$set")
      assert.strictEqual(yield* text("cost: $5, 100$"), "cost: $5, 100$")
      assert.strictEqual(yield* text("${TRICK}"), "${SET} $$")
      assert.strictEqual(yield* text("${UNSET:a$$b}"), "a$b")
    })
  )

  it("a value cannot inject YAML", () => {
    FastCheck.assert(
      FastCheck.property(FastCheck.fullUnicodeString(), (value) => {
        const all = Effect.runSync(data('quoted: "${V}"\nother: 1', { V: value }))
        assert.deepStrictEqual(all, { quoted: value, other: 1 })
      })
    )
  })

  it.effect("plain values from variables are one scalar, whatever they hold", () =>
    Effect.gen(function* () {
      for (const value of ["a: b", "[1, 2]", "{x: 1}", "a\nb: c", "# no", "*alias", "- x", "!!int 5", "| x"]) {
        assert.deepStrictEqual(yield* data("v: ${V}\nw: 1", { V: value }), { v: value, w: 1 })
      }
      for (const value of ["quoted text", "", "'", '"', "\\", "\n", "${X}", "$$", "é\u0000"]) {
        assert.deepStrictEqual(yield* data('v: "${V}"', { V: value }), { v: value })
      }
      assert.deepStrictEqual(yield* data("v: ${V}", { V: "" }), { v: null })
    })
  )

  it.effect("keys are never substituted", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* data("'${K}': 1", { K: "k" }), { "${K}": 1 })
    })
  )

  it.effect("references that cannot be understood are all reported, with their places", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* problems("a: ${1X}\nb:\n  c: x ${Y\nd: ${Z?no}\ne: '${}'\nf: ${A:${B}"), [
        "a.yaml:1:4: a: expected the name of a variable after ${ (write $${ for the characters themselves)",
        "a.yaml:3:8: b.c: the reference to Y is not closed by }",
        "a.yaml:4:4: d: expected } or : after Z (the forms are ${VAR}, ${VAR:default} and ${VAR:-default})",
        "a.yaml:5:4: e: expected the name of a variable after ${ (write $${ for the characters themselves)",
        "a.yaml:6:4: f: the reference to A is not closed by }"
      ])
    })
  )

  it.effect("syntax errors are problems with places, never with the text of the file", () =>
    Effect.gen(function* () {
      const broken = yield* problems('a: 1\na: hunter2\nb: "hunter2\n')
      assert.isAtLeast(broken.length, 1)
      assert.match(broken[0] ?? "", /^a\.yaml:2:1: /)
      for (const text of [
        "a: [hunter2",
        "a: hunter2: b",
        "a: &x hunter2\nb: *y",
        "a: !custom hunter2",
        "hunter2",
        "- hunter2",
        "a: 1\n---\nb: hunter2",
        "\thunter2: 1",
        "? [hunter2]\n: 1",
        "a: &a [*a]"
      ]) {
        const found = yield* problems(text)
        assert.isAtLeast(found.length, 1, text)
        assert.notInclude(found.join("\n"), "hunter2", text)
        assert.match(found[0] ?? "", /^a\.yaml:\d+:\d+: /, text)
      }
    })
  )

  it.effect("anchors, aliases and merge keys", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(
        yield* data("base: &b {x: 1, y: 2}\none:\n  <<: *b\n  y: 3\ntwo: *b\nthree:\n  <<: [*b, {z: 9, x: 8}]\n"),
        { base: { x: 1, y: 2 }, one: { x: 1, y: 3 }, two: { x: 1, y: 2 }, three: { x: 1, y: 2, z: 9 } }
      )
    })
  )

  it.effect("a bomb of aliases is refused", () =>
    Effect.gen(function* () {
      const levels = Array.from({ length: 12 }, (_, n) =>
        n === 0
          ? "a0: &a0 [x, x, x, x, x, x, x, x]"
          : `a${n}: &a${n} [${Array(8)
              .fill(`*a${n - 1}`)
              .join(", ")}]`
      )
      const found = yield* problems(levels.join("\n"))
      assert.strictEqual(found.length, 1)
      assert.include(found[0] ?? "", "more than 100000 values")
    })
  )

  it.effect("an empty file and a byte order mark are fine", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* data(""), {})
      assert.deepStrictEqual(yield* data("# only a comment\n"), {})
      assert.deepStrictEqual(yield* data("\uFEFFa: 1"), { a: 1 })
    })
  )

  it("a template without references gives its text back, $$ apart", () => {
    FastCheck.assert(
      FastCheck.property(FastCheck.fullUnicodeString(), (text) => {
        const parsed = YamlConfig.parseTemplate(text.replace(/\$/g, "$$$$"))
        return Either.isRight(parsed) && parsed.right.join("") === text
      })
    )
  })

  it("parsing a template never throws, and any text can be a default", () => {
    FastCheck.assert(
      FastCheck.property(FastCheck.stringOf(FastCheck.constantFrom("$", "{", "}", ":", "-", "A", "1", " ")), (text) => {
        YamlConfig.parseTemplate(text)
        return true
      }),
      { numRuns: 2_000 }
    )
  })
})
