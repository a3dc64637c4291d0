import * as Net from "node:net"
import { assert, describe, layer } from "@effect/vitest"
import * as Need from "@underlay/servers/Need"
import * as RedisServer from "@underlay/servers/RedisServer"
import { Deferred, Duration, Effect, Fiber, Schedule, Stream } from "effect"
import * as Support from "./support.ts"

const env = (redis: RedisServer.RedisServer) => ({ ...Support.bare, REDIS_URL: redis.url })

/** Runs with a service of its own, which ends with it. */
const during = <A, E, R>(env: Readonly<Record<string, string>>, f: (base: string) => Effect.Effect<A, E, R>) =>
  Effect.flatMap(Support.origin, f).pipe(Effect.provide(Support.serviceOver(env)))

/** Until the server has been sent the command that often from now on, as it tells by itself. */
const asked = (redis: RedisServer.RedisServer, command: string, times: number) =>
  Effect.async<void, Error>((resume) => {
    const socket = Net.connect({ host: redis.host, port: redis.port }, () => socket.write("MONITOR\r\n"))
    let text = ""
    socket.setEncoding("utf8")
    socket.on("error", (error) => resume(Effect.fail(error)))
    socket.on("data", (chunk) => {
      text += String(chunk)
      const seen = text.split("\r\n").filter((line) => line.toLowerCase().includes(`] "${command}" `))
      if (seen.length < times) return
      socket.destroy()
      resume(Effect.void)
    })
    return Effect.sync(() => socket.destroy())
  })

describe.skipIf(Need.missing("redis-server"))(Need.title("sessions in Redis", "redis-server"), () => {
  layer(Support.sharedIndex, { timeout: "60 seconds", excludeTestServices: true })((it) => {
    it.scoped(
      "a session survives a restart of the service, with its history and its topic",
      () =>
        Effect.gen(function* () {
          const redis = yield* RedisServer.make()
          const session = yield* during(env(redis), (base) =>
            Effect.gen(function* () {
              const parts = yield* Support.call(base, "GET", "/api/parts")
              assert.match(JSON.stringify(parts.body), /"name":"sessions","mode":"real","what":"Redis"/)
              const id = yield* Support.openSession(base)
              yield* Support.askHttp(base, id, "no space left on device")
              return id
            })
          )
          yield* during(env(redis), (base) =>
            Effect.gen(function* () {
              const history = yield* Support.call(base, "GET", `/api/sessions/${session}/history`)
              assert.strictEqual(history.status, 200)
              assert.include(JSON.stringify(history.body), "no space left on device")
              assert.include(JSON.stringify(history.body), '"runbook":"disk-full"')
              const answer = yield* Support.askHttp(base, session, "How do I prevent it?")
              assert.deepStrictEqual(answer.runbooks, ["disk-full"])
            })
          )
        }),
      60_000
    )

    it.scoped(
      "when Redis dies the client is told within two seconds, readiness falls, and all recovers when it returns",
      () =>
        Effect.gen(function* () {
          const redis = yield* RedisServer.make()
          yield* during(env(redis), (base) =>
            Effect.gen(function* () {
              const session = yield* Support.openSession(base)
              yield* Support.askHttp(base, session, "no space left on device")
              for (const break_ of [redis.kill, Effect.andThen(redis.start, redis.freeze)]) {
                yield* break_
                const ask = Support.call(base, "POST", `/api/sessions/${session}/ask`, { question: "How do I fix it?" })
                const [took, reply] = yield* Effect.timed(ask)
                assert.isBelow(Duration.toMillis(took), 2_000)
                assert.strictEqual(reply.status, 503)
                assert.propertyVal(reply.body, "_tag", "StoreUnavailable")
                assert.match((reply.body as { readonly message: string }).message, /session store/)
                // A result of the check is kept for a second.
                const ready = yield* Support.call(base, "GET", "/health/ready").pipe(
                  Effect.filterOrFail((found) => found.status === 503),
                  Effect.retry({ schedule: Schedule.spaced("100 millis"), times: 40 })
                )
                assert.match(JSON.stringify(ready.body), /"redis":\{"status":"down"/)
                const live = yield* Support.call(base, "GET", "/health/live")
                assert.strictEqual(live.status, 200)
              }
              yield* redis.thaw
              // Nothing is restarted but Redis: the service finds it again by itself.
              const answer = yield* Support.openSession(base).pipe(
                Effect.andThen((fresh) => Support.askHttp(base, fresh, "redis refuses connections")),
                Effect.retry({ schedule: Schedule.spaced("100 millis"), times: 100 })
              )
              assert.strictEqual(answer.last?._tag, "done")
              assert.strictEqual(answer.runbooks[0], "redis-connection-refused")
            })
          )
        }),
      60_000
    )

    it.scoped(
      "when Redis dies or hangs while a model writes the client hears it within two seconds, not at the answer's end",
      () =>
        Effect.gen(function* () {
          const redis = yield* RedisServer.make()
          const model = yield* Support.modelServer
          yield* during({ ...env(redis), ...Support.withModel(model) }, (base) =>
            Effect.gen(function* () {
              for (const break_ of [redis.kill, redis.freeze]) {
                // It begins its answer and goes on for ever.
                model.answers.push((_request, response) => {
                  response.writeHead(200, { "content-type": "text/event-stream" })
                  response.write(Support.chunk({ role: "assistant", content: "Free space [1]." }))
                })
                const session = yield* Support.openSession(base).pipe(
                  Effect.retry({ schedule: Schedule.spaced("100 millis"), times: 100 })
                )
                const arrived = yield* Deferred.make<void>()
                const reading = yield* Support.stream(base, session, "no space left on device").pipe(
                  Stream.tap((event) => (event._tag === "delta" ? Deferred.succeed(arrived, undefined) : Effect.void)),
                  Stream.runCollect,
                  Effect.fork
                )
                yield* Deferred.await(arrived)
                // That all is well, which it sees at each look, ends nothing.
                yield* Effect.raceFirst(asked(redis, "exists", 3), Fiber.await(reading))
                assert.isNull(reading.unsafePoll())
                yield* break_
                const [took, events] = yield* Effect.timed(Fiber.join(reading))
                const answer = Support.gather(Array.from(events))
                assert.strictEqual(answer.text, "Free space [1].")
                const last = answer.last
                assert.isTrue(last?._tag === "error" && last.code === "StoreUnavailable" && last.retryable)
                assert.isTrue(last?._tag === "error" && /session store went away/.test(last.message))
                assert.isBelow(Duration.toMillis(took), 2_000)
                if (break_ === redis.kill) yield* redis.start
              }
              yield* redis.thaw
            })
          )
        }),
      60_000
    )

    it.scoped(
      "a Redis that is named and not there stops the start with a message that says what to do",
      () =>
        Effect.gen(function* () {
          const port = yield* RedisServer.freePort
          const running = yield* Support.program(["--ask", "disk full"], {
            ...Support.bare,
            REDIS_URL: `redis://:secret-password@127.0.0.1:${port}`
          })
          const { code, err, out } = yield* running.exited
          assert.strictEqual(code, 1)
          assert.match(err, /REDIS_URL asks for sessions in Redis at 127\.0\.0\.1:\d+, which cannot be used\. Start it/)
          assert.notInclude(err + out, "secret-password")
        }),
      60_000
    )
  })
})
