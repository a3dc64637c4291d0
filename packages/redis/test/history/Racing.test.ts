import { assert, describe, it } from "@effect/vitest"
import { History, SessionHistory } from "@underlay/core/testing"
import { RedisSessionStore } from "@underlay/redis"
import * as Need from "@underlay/servers/Need"
import * as Server from "@underlay/servers/RedisServer"
import { Effect } from "effect"
import { open } from "../RedisClientSupport.ts"
import { now, randomOf } from "./worker.ts"

const operations = process.env["UNDERLAY_NIGHTLY"] === "1" ? 100_000 : 20_000
const given = process.env["UNDERLAY_HISTORY_SEED"]
const seed = given === undefined ? Math.floor(Math.random() * 1_000_000) : Number(given)

describe.skipIf(Need.missing("redis-server"))(Need.title("races of sessions", "redis-server"), () => {
  it.scopedLive(
    `${operations} racing operations of four clients: no lost update, no resurrection, nothing stale; seed ${seed}`,
    () =>
      Effect.gen(function* () {
        const server = yield* Server.make()
        const stores = yield* Effect.replicateEffect(
          Effect.flatMap(open({ host: server.host, port: server.port, commandTimeout: "10 seconds" }), ({ redis }) =>
            RedisSessionStore.make(redis, { tombstone: "1 hour", defaultTtl: "2 hours" })
          ),
          4
        )
        const random = randomOf(seed)
        const recorder = yield* History.makeRecorder<SessionHistory.Input, SessionHistory.Output>(now)
        const pairs = 25
        let left = operations
        const choose = (): SessionHistory.Input => {
          const pair = Math.floor(random() * pairs)
          const [id, to] = random() < 0.6 ? [`${pair}-a`, `${pair}-b`] : [`${pair}-b`, `${pair}-a`]
          const mark = left.toString(36)
          const which = random()
          if (which < 0.4) return { _tag: "Update", id, mark }
          if (which < 0.55) return { _tag: "Get", id }
          if (which < 0.65) return { _tag: "GetAndTouch", id }
          if (which < 0.7) return { _tag: "Exists", id }
          if (which < 0.8) return { _tag: "Set", id, mark }
          if (which < 0.9) return { _tag: "Create", id, mark }
          if (which < 0.95) return { _tag: "Delete", id }
          return { _tag: "Rotate", id, to }
        }
        yield* Effect.forEach(
          Array.from({ length: 64 }, (_, index) => index),
          (index) =>
            Effect.gen(function* () {
              const store = stores[index % 4]
              while (left-- > 0 && store !== undefined) {
                const input = choose()
                const owner = ["u", "v", undefined][Math.floor(random() * 3)]
                const session = owner === undefined ? {} : { user_id: owner }
                yield* recorder.record(`c${index}`, input, SessionHistory.perform(store, input, session))
              }
            }),
          { concurrency: "unbounded", discard: true }
        )
        const history = yield* recorder.history
        assert.lengthOf(history, operations)
        assert.isTrue(history.every((one) => one._tag === "Done"))
        const verdict = SessionHistory.check(history)
        assert.strictEqual(verdict._tag, "Linearizable", "description" in verdict ? verdict.description : "")
      }),
    600_000
  )
})
