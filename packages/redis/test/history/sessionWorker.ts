/**
 * A process of its own with several fibers that work on the same few sessions, and says what it did, a line an operation.
 * With `blind` the store compares nothing when it updates, with `graveless` it writes over tombstones: for the checker to
 * find.
 */
import { History, SessionHistory } from "@underlay/core/testing"
import { RedisClient, RedisSessionStore } from "@underlay/redis"
import { Effect } from "effect"
import { pause } from "../support.ts"
import { listen, main, makeClock, now, randomOf, say } from "./worker.ts"

/** What a worker is told when it starts. */
export interface SessionPlan {
  readonly name: string
  readonly port: number
  readonly seed: number
  readonly fibers: number
  /** How many pairs of ids are worked on at a time. */
  readonly pairs: number
  /** How long a fiber rests between two operations, in milliseconds, at most. */
  readonly rest: number
  readonly mode: "sound" | "blind" | "graveless"
}

const day = 24 * 60 * 60 * 1_000

/** The client without what the mode takes out. */
const weaken = (redis: RedisClient.Service, mode: SessionPlan["mode"]): RedisClient.Service => {
  if (mode === "sound") return redis
  const name = mode === "blind" ? "session.update" : "session.set"
  return {
    ...redis,
    run: (script, keys, args) => {
      if (script.name !== name) return redis.run(script, keys, args)
      const text = args[mode === "blind" ? 1 : 0] ?? ""
      return Effect.as(redis.send("SET", keys[0] ?? "", text, "PX", day), mode === "blind" ? day : 1)
    }
  }
}

const plan: SessionPlan = JSON.parse(process.argv[2] ?? "{}")

const { clock, jump } = makeClock()

const program = Effect.gen(function* () {
  const redis = yield* RedisClient.RedisClient
  const store = yield* RedisSessionStore.make(weaken(redis, plan.mode), { defaultTtl: day, tombstone: day })
  const recorder = yield* History.makeRecorder<SessionHistory.Input, SessionHistory.Output>(now)
  let episode = "0"
  let isOver = false
  let marks = 0
  listen((line) => {
    const [word, value = ""] = line.split(" ")
    if (word === "episode") episode = value
    if (word === "jump") jump(Number(value))
    if (word === "stop") isOver = true
  })

  const choose = (random: () => number): SessionHistory.Input => {
    const pair = `${episode}-${Math.floor(random() * plan.pairs)}`
    const [id, to] = random() < 0.7 ? [`${pair}-a`, `${pair}-b`] : [`${pair}-b`, `${pair}-a`]
    const mark = `${plan.name}${(++marks).toString(36)}`
    const which = random()
    if (which < 0.45) return { _tag: "Update", id, mark }
    if (which < 0.6) return { _tag: "Get", id }
    if (which < 0.7) return { _tag: "GetAndTouch", id }
    if (which < 0.75) return { _tag: "Exists", id }
    if (which < 0.83) return { _tag: "Set", id, mark }
    if (which < 0.93) return { _tag: "Create", id, mark }
    if (which < 0.96) return { _tag: "Delete", id }
    return { _tag: "Rotate", id, to }
  }

  const fiber = (index: number) =>
    Effect.gen(function* () {
      const random = randomOf(plan.seed * 31 + index)
      while (!isOver) {
        const input = choose(random)
        const owner = ["u", "v", undefined][Math.floor(random() * 3)]
        // the first two pairs go from owner to owner, and so from index to index; the next is large
        const session =
          /-[01]-/.test(input.id) && owner !== undefined ? { user_id: owner } : /-2-/.test(input.id) ? { pad } : {}
        yield* recorder.record(`${plan.name}${index}`, input, SessionHistory.perform(store, input, session))
        yield* pause(random() * plan.rest)
      }
    })

  say("ready")
  yield* Effect.forEach(
    Array.from({ length: plan.fibers }, (_, index) => index),
    fiber,
    { concurrency: "unbounded", discard: true }
  )
  for (const operation of yield* recorder.history) say(operation)
  say("over")
})

const pad = "ü".repeat(3_000)

main(Effect.provide(program, RedisClient.layer({ host: "127.0.0.1", port: plan.port, commandTimeout: 500 })), clock)
