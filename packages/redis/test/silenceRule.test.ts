import { spawnSync } from "node:child_process"
import * as Fs from "node:fs"
import * as Os from "node:os"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"

const root = Path.resolve(import.meta.dirname, "../../..")

/** What the checker says of a tree with these files, or of this repository. */
const check = (files?: Readonly<Record<string, string>>) => {
  const folder = Fs.mkdtempSync(Path.join(Os.tmpdir(), "underlay-silence-"))
  for (const [name, text] of Object.entries(files ?? {})) {
    Fs.mkdirSync(Path.dirname(Path.join(folder, name)), { recursive: true })
    Fs.writeFileSync(Path.join(folder, name), text)
  }
  const { status, stderr } = spawnSync(
    process.execPath,
    [Path.join(root, "scripts/silence.mjs"), ...(files === undefined ? [] : [folder])],
    { encoding: "utf8" }
  )
  Fs.rmSync(folder, { recursive: true, force: true })
  return { status, said: stderr.split("\n").filter((line) => line !== "") }
}

const quiet = `import * as Effect from "effect/Effect"
import { Metric } from "./Metric.ts"
export const make = Effect.fnUntraced(function* () {
  yield* Effect.void
})
export const distance = Metric.Literal("cosine")
`

/** Each way to emit something, and the name under which it is found. */
const violations: Record<string, readonly [code: string, member: string]> = {
  "a span": [`import * as Effect from "effect/Effect"\nEffect.withSpan(Effect.void, "get")`, "Effect.withSpan"],
  "a span, piped": [`import { Effect as E, pipe } from "effect"\npipe(E.void, E.withSpan("get"))`, "Effect.withSpan"],
  "a span of a layer": [`import * as Layer from "effect/Layer"\nLayer.span("redis")`, "Layer.withSpan"],
  "a span of a stream": [
    `import * as Stream from "effect/Stream"\nStream.withSpan(Stream.empty, "s")`,
    "Stream.withSpan"
  ],
  "a traced function": [`import * as Effect from "effect/Effect"\nEffect.fn("get")(function* () {})`, "Effect.fn"],
  "a log line": [`import * as Effect from "effect/Effect"\nexport const f = Effect.logDebug("hit")`, "Effect.log*"],
  "a log line by another name": [`import { log as say } from "effect/Effect"\nsay("hit")`, "Effect.log*"],
  "a log line, taken apart": [`import * as Effect from "effect/Effect"\nconst { logInfo } = Effect`, "Effect.log*"],
  "a log line, quoted": [`import * as Effect from "effect/Effect"\nEffect["logInfo"]("hit")`, "Effect.log*"],
  "a log line of everything": [`import * as all from "effect"\nall.Effect.log("hit")`, "Effect.log*"],
  annotations: [`import * as Effect from "effect/Effect"\nEffect.annotateLogs(Effect.void, {})`, "Effect.annotate*"],
  "a metric": [`import * as Metric from "effect/Metric"\nMetric.counter("hits")`, "effect/Metric"],
  "a metric of the barrel": [`import { Metric } from "effect"\nMetric.counter("hits")`, "effect/Metric"],
  "a metric of everything": [`import * as all from "effect"\nall.Metric.counter("hits")`, "effect/Metric"],
  "a measured effect": [`import * as Effect from "effect/Effect"\nEffect.withMetric`, "Effect.withMetric"],
  "a timeout": [`import * as Effect from "effect/Effect"\nEffect.timeoutFail`, "Effect.timeout*"],
  "a retry": [`import * as Effect from "effect/Effect"\nEffect.retryOrElse`, "Effect.retry*"],
  "the console": [`console.error("lost")`, "console"],
  "the console of the world": [`globalThis.console.error("lost")`, "console"],
  "the console of Effect": [`import { Console } from "effect"\nConsole.log("lost")`, "effect/Console"],
  "standard error": [`process.stderr.write("lost")`, "process.stderr"],
  "an exporter": [`import * as Otel from "@effect/opentelemetry"\nOtel.NodeSdk`, "@effect/opentelemetry"],
  "a watched client": [
    `import * as ExternalClient from "@underlay/core/external/ExternalClient"\nExternalClient.make`,
    "@underlay/core/external/ExternalClient"
  ]
}

describe("the rule that the internal plane is silent", () => {
  it.effect("holds in this repository", () =>
    Effect.sync(() => assert.deepStrictEqual(check(), { status: 0, said: [] }))
  )

  it.effect("finds nothing in a file that emits nothing, not even where names look like it", () =>
    Effect.sync(() => assert.deepStrictEqual(check({ "packages/redis/src/RedisThing.ts": quiet }).said, []))
  )

  it.effect("finds every planted violation, in the line where it is", () =>
    Effect.sync(() => {
      // one tree with a file for each, so that the checker runs once
      const names = Object.keys(violations)
      const files = Object.fromEntries(
        names.map((name, index) => [`packages/redis/src/internal/v${index}.ts`, `${violations[name]?.[0]}\n`])
      )
      const { said, status } = check(files)
      assert.strictEqual(status, 1)
      for (const [index, name] of names.entries()) {
        const [code = "", member = ""] = violations[name] ?? []
        const lines = said.filter((line) => line.startsWith(`packages/redis/src/internal/v${index}.ts:`))
        assert.isAtLeast(lines.length, 1, name)
        for (const line of lines) assert.include(line, ` ${member} in `, name)
        const last = code.split("\n").length
        assert.isTrue(
          lines.every((line) => [1, last].includes(Number(/:(\d+) /.exec(line)?.[1]))),
          `${name}: ${lines.join()}`
        )
      }
    })
  )

  it.effect("looks at core's ports and what is behind them, not at the other plane", () =>
    Effect.sync(() => {
      const loud = `import * as Effect from "effect/Effect"\nexport const f = Effect.withSpan("f")\n`
      const { said } = check({
        "packages/core/src/state/A.ts": loud,
        "packages/core/src/events/B.ts": loud,
        "packages/core/src/storage/C.ts": loud,
        "packages/core/src/internal/cache/d.ts": loud,
        "packages/core/src/internal/new/deep/e.ts": loud,
        "packages/core/src/internal/external/f.ts": loud,
        "packages/core/src/external/G.ts": loud,
        "packages/core/src/testing/H.ts": loud
      })
      assert.deepStrictEqual(
        said.map((line) => Path.basename(line.split(":")[0] ?? "")),
        ["C.ts", "B.ts", "d.ts", "e.ts", "A.ts"].sort((one, other) => order(one) - order(other))
      )
    })
  )

  it.effect("an exception holds for one declaration of one file, and must be needed", () =>
    Effect.sync(() => {
      const file = "packages/redis/src/RedisCircuitControl.ts"
      const said = (name: string) =>
        check({
          [file]: `import * as Effect from "effect/Effect"\nexport const ${name} = () => Effect.logWarning("corrupt")\n`
        }).said
      assert.deepStrictEqual(said("make"), [])
      assert.deepStrictEqual(said("read"), [
        `${file}:2 Effect.log* in read: the internal plane emits nothing`,
        `${file}: the exception for Effect.log* in make is not needed`
      ])
    })
  )

  it.effect("a tree without the sources that it looks for is an error", () =>
    Effect.sync(() => assert.strictEqual(check({ "src/a.ts": "" }).status, 1))
  )
})

/** Where the planted files of core stand in the order of their paths. */
const order = (name: string): number => ["B.ts", "d.ts", "e.ts", "A.ts", "C.ts"].indexOf(name)
