import * as Fs from "node:fs"
import * as Path from "node:path"
import { assert, layer } from "@effect/vitest"
import { Effect, Schema } from "effect"
import * as Support from "./support.ts"

const Questions = Schema.Struct({
  questions: Schema.Array(
    Schema.Struct({ question: Schema.String, expected: Schema.Union(Schema.String, Schema.Array(Schema.String)) })
  ),
  followUps: Schema.Array(Schema.Unknown)
})

const read = Effect.flatMap(
  Effect.sync(() => Fs.readFileSync(Path.join(Support.folder, "test", "questions.json"), "utf8")),
  Schema.decodeUnknown(Schema.parseJson(Questions))
)

layer(Support.assistant(), { timeout: "60 seconds" })("the twenty questions, with the local embedder", (it) => {
  it.effect("at least sixteen cite the right runbook first and nineteen among the first three", () =>
    Effect.gen(function* () {
      const { questions } = yield* read
      assert.strictEqual(questions.length, 20)
      const misses: Array<string> = []
      let first = 0
      let three = 0
      for (const { expected, question } of questions) {
        const right = typeof expected === "string" ? [expected] : expected
        // Each in a session of its own: nothing said before helps.
        const answer = yield* Support.ask(yield* Support.newSession, question)
        const place = answer.runbooks.findIndex((runbook) => right.includes(runbook))
        if (place === 0) first++
        if (place >= 0 && place < 3) three++
        if (place !== 0)
          misses.push(`${question} -> ${answer.runbooks.slice(0, 3).join(", ")}; right: ${right.join(", ")}`)
      }
      assert.isAtLeast(first, 16, misses.join("\n"))
      assert.isAtLeast(three, 19, misses.join("\n"))
    })
  )
})
