/** What errors say is enough to act on: the cause of a `ConnectionError` shows no words that one could be sent to. */
import * as Fs from "node:fs"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { load } from "../../src/internal/driver.ts"
import { toConnectionError } from "../../src/internal/mongo/errors.ts"

const source = Path.join(import.meta.dirname, "../../src")
const files = Fs.readdirSync(source, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"))

describe("descriptions", () => {
  it("send nobody to a cause that shows nothing", () => {
    assert.isAbove(files.length, 50)
    for (const name of files) assert.notMatch(Fs.readFileSync(Path.join(source, name), "utf8"), /see the cause/i, name)
  })

  it.effect("of a driver that is broken say what to install, and `original` has what it said", () =>
    Effect.gen(function* () {
      const thrown = new Error("hush")
      const at = { kind: "mongodb", name: "main" }
      const error = yield* Effect.flip(load(at, "mongodb", "7.8.0", () => Promise.reject(thrown)))
      assert.strictEqual(error.reason, "MissingDriver")
      assert.include(error.description, "npm install mongodb@7.8.0")
      assert.include(error.description, "`original`")
      assert.strictEqual(error.original, thrown)
    })
  )

  it("of what is not known name the code, or `original`", () => {
    const at = { kind: "mongodb", name: "main", method: "find" }
    const coded = toConnectionError(at, Object.assign(new Error("hush"), { name: "MongoServerError", code: 987_654 }))
    assert.deepStrictEqual([coded.reason, coded.code], ["Unknown", "987654"])
    assert.match(coded.description, /code|`original`/)
    assert.include(toConnectionError(at, new Error("hush")).description, "`original`")
  })
})
