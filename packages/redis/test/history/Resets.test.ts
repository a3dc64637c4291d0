import { assert, describe, it } from "@effect/vitest"
import { ResilientSessionStore, type SessionStore } from "@underlay/core"
import { SessionHistory } from "@underlay/core/testing"
import { RedisClient, RedisSessionStore } from "@underlay/redis"
import * as FaultProxy from "@underlay/servers/FaultProxy"
import * as Need from "@underlay/servers/Need"
import * as Server from "@underlay/servers/RedisServer"
import { Effect, Either, Fiber, Option } from "effect"
import { open, pause } from "../RedisClientSupport.ts"
import { randomOf } from "./worker.ts"

const connections = 16

/** Clients that go through a proxy, each with a connection. */
const world = Effect.gen(function* () {
  const server = yield* Server.make()
  const proxy = yield* FaultProxy.make({ port: server.port })
  const clients = yield* Effect.replicateEffect(
    Effect.map(open({ host: "127.0.0.1", port: proxy.port, commandTimeout: 2_000 }), ({ redis }) => redis),
    connections
  )
  return { server, proxy, clients }
})

/**
 * Resets connections until so many were, in every way: all at once, before a reply, in the midst of one. Goes on until they
 * hit `enough` of what is looked for: how often they do depends on how quick the machine is.
 */
const resets = (proxy: FaultProxy.FaultProxy, count: number, seed: number, enough: () => boolean = () => true) =>
  Effect.gen(function* () {
    const random = randomOf(seed)
    const end = performance.now() + 120_000
    while (((yield* proxy.counts).reset < count || !enough()) && performance.now() < end) {
      // connections that are in use: all are back again
      yield* pause(5 + random() * 20)
      if ((yield* proxy.counts).open < connections / 2) continue
      if (random() < 0.4) yield* proxy.resetAll
      else yield* proxy.resetAfter(Math.floor(random() * 30))
    }
    yield* proxy.calm
    return (yield* proxy.counts).reset
  })

/** Runs fibers on every client until the effect is over. */
const load = <A, E, R>(
  clients: ReadonlyArray<RedisClient.Service>,
  step: (client: RedisClient.Service, index: number) => Effect.Effect<void>,
  until: Effect.Effect<A, E, R>
) =>
  Effect.gen(function* () {
    let isOver = false
    const fibers = yield* Effect.forEach([...clients, ...clients], (client, index) =>
      Effect.fork(
        Effect.gen(function* () {
          while (!isOver) {
            yield* step(client, index)
            // while there is no connection everything fails at once
            yield* pause(1)
          }
        })
      )
    )
    const result = yield* until
    isOver = true
    yield* Effect.forEach(fibers, Fiber.join, { discard: true })
    return result
  })

type Fate = "done" | "unknown" | "not-done"

/** What is wrong with what is there, given what the callers were told. */
const judge = (told: ReadonlyMap<string, Fate>, there: ReadonlyArray<string>): ReadonlyArray<string> => {
  const counts = new Map<string, number>()
  for (const id of there) counts.set(id, (counts.get(id) ?? 0) + 1)
  const wrong: Array<string> = []
  for (const [id, fate] of told) {
    const count = counts.get(id) ?? 0
    if (fate === "done" ? count !== 1 : fate === "unknown" ? count > 1 : count > 0) {
      wrong.push(`${id} was said to be ${fate} and is there ${count} times`)
    }
  }
  for (const id of counts.keys()) if (!told.has(id)) wrong.push(`${id} is there and was never asked for`)
  return wrong
}

const fates = (told: ReadonlyMap<string, Fate>) => {
  const count = { done: 0, unknown: 0, "not-done": 0 }
  for (const fate of told.values()) count[fate]++
  return count
}

/** Pushes unique ids to a list, and counts up beside it, in one step that must not be done twice. */
const push = RedisClient.script(
  "test.push",
  `redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], 600000)
redis.call('INCR', KEYS[2])
return redis.call('PEXPIRE', KEYS[2], 600000)`
)

/** `enough`: how many outcomes must have been unknown, with those that were then tried again. */
const pushes = (count: number, seed: number, retries: boolean, enough: number) =>
  Effect.gen(function* () {
    const { clients, proxy, server } = yield* world
    const told = new Map<string, Fate>()
    let unknown = 0
    let next = 0
    const step = (client: RedisClient.Service, index: number) =>
      Effect.suspend(() => {
        const id = `${index}-${next++}`
        // commands and scripts in turn
        const command: Effect.Effect<unknown, { readonly outcome: string }> =
          next % 2 === 0 ? client.send("RPUSH", "list", id) : client.run(push, ["list", "count"], [id])
        const watched = Effect.tapError(command, ({ outcome }) =>
          Effect.sync(() => {
            if (outcome === "unknown") unknown++
          })
        )
        const asked = retries ? Effect.retry(watched, { times: 3 }) : watched
        return Effect.map(Effect.either(asked), (result) => {
          told.set(id, Either.isRight(result) ? "done" : result.left.outcome === "unknown" ? "unknown" : "not-done")
        })
      })
    const reset = yield* load(
      clients,
      step,
      resets(proxy, count, seed, () => unknown > enough)
    )
    const list = yield* server.call("LRANGE", "list", "0", "-1")
    return { told, reset, wrong: judge(told, Array.isArray(list) ? list.map(String) : []) }
  })

describe.skipIf(Need.missing("redis-server"))(Need.title("resets under load", "redis-server"), () => {
  it.scopedLive(
    "1,000 connection resets: nothing that must not be done twice is done twice (complaint 3)",
    () =>
      Effect.gen(function* () {
        const { reset, told, wrong } = yield* pushes(1_000, 1, false, 50)
        const count = fates(told)
        assert.deepStrictEqual(wrong, [], JSON.stringify(count))
        assert.isAtLeast(reset, 1_000)
        assert.isAbove(count.done, 1_000)
        assert.isAbove(count.unknown, 50)
      }),
    180_000
  )

  it.scopedLive(
    "with a retry of what is unknown it would be, and the count shows it",
    () => Effect.map(pushes(200, 2, true, 50), ({ wrong }) => assert.isAbove(wrong.length, 0)),
    120_000
  )

  it.scopedLive(
    "1,000 connection resets under a resilient store: what may be done twice is tried twice at most, all else once",
    () =>
      Effect.gen(function* () {
        const { clients, proxy, server } = yield* world
        /** What each attempt came to, by operation. */
        const attempts = new Map<string, Array<SessionStore.SessionStoreError | "done">>()
        const counted = <A>(id: string, operation: Effect.Effect<A, SessionStore.SessionStoreError>) =>
          Effect.tapBoth(operation, {
            onFailure: (error) => Effect.sync(() => attempts.get(id)?.push(error)),
            onSuccess: () => Effect.sync(() => attempts.get(id)?.push("done"))
          })
        const stores = yield* Effect.forEach(clients, (client) =>
          Effect.flatMap(RedisSessionStore.make(client), (store) => {
            // the operation is known by the id, or for one session by the mark
            let mark = ""
            const watched: SessionStore.Service = {
              ...store,
              get: (id) => counted(id, store.get(id)),
              set: (id, session) => counted(id, store.set(id, session)),
              getAndTouch: (id) => counted(id, store.getAndTouch(id)),
              delete: (id) => counted(id, store.delete(id)),
              create: (id, session) => counted(id, store.create(id, session)),
              // asked for once, run once or twice: whose it is is said when it is asked for
              update: (id, f) => counted(mark, store.update(id, f))
            }
            return Effect.map(ResilientSessionStore.make(watched), (resilient) => ({
              resilient,
              update: (id: string, own: string) => {
                mark = own
                return resilient.update(id, (before) => ({
                  ...before,
                  marks: [...SessionHistory.marksOf(before), own]
                }))
              }
            }))
          })
        )
        const told = new Map<string, Fate>()
        const kinds = new Map<string, string>()
        let next = 0
        const owned = (index: number) => `log-${index}`
        for (let index = 0; index < 2 * connections; index++) {
          yield* (yield* RedisSessionStore.make(clients[0] as RedisClient.Service)).create(owned(index), { marks: [] })
        }
        const step = (_: RedisClient.Service, index: number) =>
          Effect.suspend(() => {
            const store = stores[index % connections]
            if (store === undefined) return Effect.void
            const id = `o${next++}`
            attempts.set(id, [])
            const { resilient } = store
            const tell = (kind: string, operation: Effect.Effect<unknown, SessionStore.SessionStoreError>) => {
              kinds.set(id, kind)
              return Effect.map(Effect.either(operation), (result) => {
                if (kind !== "update") return
                told.set(
                  id,
                  Either.isRight(result) ? "done" : result.left.outcome === "unknown" ? "unknown" : "not-done"
                )
              })
            }
            // mostly what must not be done twice
            switch (next % 12) {
              case 0:
                return tell("get", resilient.get(id))
              case 1:
                return tell("set", resilient.set(id, {}))
              case 2:
                return tell("getAndTouch", resilient.getAndTouch(id))
              case 3:
                return tell("delete", resilient.delete(id))
              case 4:
              case 5:
              case 6:
                return tell("create", resilient.create(id, {}))
              default:
                return tell("update", store.update(owned(index), id))
            }
          })
        const enough = () => fates(told).unknown > 5
        const reset = yield* load(clients, step, resets(proxy, 1_000, 3, enough))
        assert.isAtLeast(reset, 1_000)

        const found = { again: 0, once: 0 }
        for (const [id, results] of attempts) {
          const [first, second, ...more] = results
          const kind = kinds.get(id) ?? ""
          assert.lengthOf(more, 0, `${kind} was tried ${results.length} times`)
          if (first === undefined || first === "done") {
            assert.isUndefined(second, `${kind} was done and done again`)
          } else if (first.outcome === "unknown" && (kind === "create" || kind === "update")) {
            assert.isUndefined(second, `${kind} was tried again though it may have been done`)
            found.once++
          } else if (first.reason === "Unavailable") {
            assert.isDefined(second, `${kind} was not tried again: ${first.message}`)
            found.again++
          }
        }
        assert.isAbove(found.again, 50)
        assert.isAbove(found.once, 5)

        // and each update is in its session as often as it should be
        const there: Array<string> = []
        const [direct] = yield* Effect.replicateEffect(open({ host: "127.0.0.1", port: server.port }), 1)
        if (direct === undefined) return assert.fail()
        const reader = yield* RedisSessionStore.make(direct.redis)
        for (let index = 0; index < 2 * connections; index++) {
          there.push(...SessionHistory.marksOf(Option.getOrThrow(yield* reader.get(owned(index)))))
        }
        assert.deepStrictEqual(judge(told, there), [])
        assert.isAbove(fates(told).unknown, 5)
      }),
    240_000
  )
})
