import { spawn } from "node:child_process"
import * as Path from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"

const folder = Path.resolve(import.meta.dirname, "../src")

/** Runs a program as a user would, without anything of this environment that would choose real services. */
const run = (name: string) =>
  Effect.async<{ readonly code: number | null; readonly out: string; readonly err: string }>((resume) => {
    const { PATH, HOME } = process.env
    const child = spawn(process.execPath, ["--import", "tsx", Path.join(folder, name)], {
      cwd: Path.dirname(folder),
      env: { PATH, HOME, NO_COLOR: "1" }
    })
    let out = ""
    let err = ""
    child.stdout.on("data", (chunk) => {
      out += chunk
    })
    child.stderr.on("data", (chunk) => {
      err += chunk
    })
    child.on("close", (code) => resume(Effect.succeed({ code, out, err })))
    return Effect.sync(() => child.kill("SIGKILL"))
  })

/** What each program must have said. */
const programs: Record<string, ReadonlyArray<string | RegExp>> = {
  "readme.ts": ["Good morning, Ada."],
  "session-store.ts": [
    "a write to the old id: SessionGone",
    /cart: .*apples/,
    /cart: .*pears/,
    "signed out of 1 session"
  ],
  "cache.ts": ["100 answers, all Ada", "loads: 2, joined a load that ran: 99"],
  "vector-store.ts": [/^0\.\d\d {2}redis/],
  "language-model.ts": ["Because nothing listens on that address and port. (stop)", "high: nobody can log in"],
  "external-client.ts": ["the third attempt was answered", /circuit breaker is open/, "a forecast of another shape"],
  "resilience.ts": [
    /hedge {2,}/,
    "answered by attempt 2, which was started beside a slow one",
    "of 6 at once 4 were served, 2 refused by the bulkhead",
    "the service is down, the last good price was 12",
    "the circuit is open",
    "attemptTimeout (2s) is longer than timeout (1s)",
    "calls that were audited: 9"
  ],
  "composed-layers.ts": ["with the production layers", "with the test layers", "both gave the same answer"]
}

describe("the example programs", () => {
  for (const [name, expected] of Object.entries(programs)) {
    it.live(
      name,
      () =>
        Effect.gen(function* () {
          const { code, err, out } = yield* run(name)
          assert.strictEqual(code, 0, err + out)
          assert.strictEqual(err, "")
          for (const words of expected) {
            if (typeof words === "string") assert.include(out, words)
            else assert.match(out, words)
          }
        }),
      60_000
    )
  }
})
