import { NodeHttpClient } from "@effect/platform-node"
import { assert, layer } from "@effect/vitest"
import { Chunk, Deferred, Duration, Effect, Exit, Fiber, Layer, Option, Schedule, Schema, Scope, Stream } from "effect"
import * as Support from "./support.ts"

const Sent = Schema.parseJson(
  Schema.Struct({
    model: Schema.String,
    stream: Schema.Boolean,
    messages: Schema.Array(Schema.Struct({ role: Schema.String, content: Schema.Unknown }))
  })
)

/** The service over a model server of its own. */
const withService = <A, E, R>(f: (server: Support.ModelServer, base: string) => Effect.Effect<A, E, R>) =>
  Effect.gen(function* () {
    const server = yield* Support.modelServer
    return yield* Effect.flatMap(Support.origin, (base) => f(server, base)).pipe(
      Effect.provide(Support.serviceOver(Support.withModel(server)))
    )
  })

layer(Support.sharedIndex, { timeout: "60 seconds", excludeTestServices: true })(
  "answers by a language model, over a loopback server that speaks OpenAI's format",
  (it) => {
    it.scoped(
      "the model gets the sections, the question and the conversation; its answer is streamed with the sources",
      () =>
        withService((server, base) =>
          Effect.gen(function* () {
            const session = yield* Support.openSession(base)
            server.answers.push(Support.says("Free space ", "first [1], then ", "look at logs [2]."))
            const answer = yield* Support.askHttp(base, session, "no space left on device")
            assert.strictEqual(answer.text, "Free space first [1], then look at logs [2].")
            assert.strictEqual(answer.runbooks[0], "disk-full")
            assert.isAbove(answer.events.filter((event) => event._tag === "delta").length, 1)
            const done = answer.last
            assert.isTrue(done?._tag === "done" && done.answerer === "openai")
            if (done?._tag === "done") {
              assert.deepStrictEqual(done.cited, [1, 2])
              assert.strictEqual(done.model, "test-model-2026")
              assert.deepStrictEqual([done.inputTokens, done.outputTokens], [900, 12])
            }
            const first = yield* Schema.decode(Sent)(server.requests[0]?.body ?? "")
            assert.strictEqual(first.model, "test-model")
            assert.isTrue(first.stream)
            const instructions = String(first.messages[0]?.content)
            for (const source of answer.sources) assert.include(instructions, source.text)
            assert.include(JSON.stringify(first.messages.at(-1)?.content), "no space left on device")
            assert.strictEqual(server.requests[0]?.headers.authorization, "Bearer sk-test-0000")

            server.answers.push(Support.says("Rotate the logs [1]."))
            const second = yield* Support.askHttp(base, session, "How do I prevent it?")
            assert.deepStrictEqual(second.runbooks, ["disk-full"])
            const sent = yield* Schema.decode(Sent)(server.requests[1]?.body ?? "")
            assert.deepStrictEqual(
              sent.messages.map((message) => message.role),
              ["system", "user", "assistant", "user"]
            )
            // The numbers of the answer before meant other sections than those of this one.
            assert.include(JSON.stringify(sent.messages[2]?.content), "Free space first, then look at logs.")
            const parts = yield* Support.call(base, "GET", "/api/parts")
            assert.match(JSON.stringify(parts.body), /"name":"answers","mode":"real","what":"OpenAI, model test-model"/)
            assert.notInclude(JSON.stringify(parts.body), "sk-test")
          })
        ),
      60_000
    )

    it.scoped(
      "the model is told when the search is not sure, and only then",
      () =>
        withService((server, base) =>
          Effect.gen(function* () {
            const told = Effect.fnUntraced(function* (question: string) {
              server.answers.push(Support.says("The runbooks do not say."))
              const answer = yield* Support.askHttp(base, yield* Support.openSession(base), question)
              assert.isTrue(answer.last?._tag === "done" && answer.last.kind === "answer")
              const sent = yield* Schema.decode(Sent)(server.requests.at(-1)?.body ?? "")
              return /search is not sure/.test(String(sent.messages[0]?.content))
            })
            assert.isTrue(yield* told("how do I change my Netflix password?"))
            assert.isFalse(yield* told("no space left on device"))
          })
        ),
      60_000
    )

    it.scoped(
      "429 with Retry-After, then a stream: the delay is honoured and the answer comes once",
      () =>
        withService((server, base) =>
          Effect.gen(function* () {
            const session = yield* Support.openSession(base)
            server.answers.push(Support.fails(429, { "retry-after": "1" }), Support.says("Free space [1]."))
            const answer = yield* Support.askHttp(base, session, "no space left on device")
            assert.strictEqual(answer.text, "Free space [1].")
            assert.strictEqual(server.requests.length, 2)
            const [first, second] = server.requests
            assert.isAtLeast((second?.at ?? 0) - (first?.at ?? 0), 990)
            for (const request of server.requests)
              assert.match(String(request.headers["traceparent"]), /^00-[0-9a-f]{32}-/)
          })
        ),
      60_000
    )

    it.scoped(
      "when the model fails before its first word the local answerer takes over and says so",
      () =>
        withService((server, base) =>
          Effect.gen(function* () {
            const session = yield* Support.openSession(base)
            server.answers.push(Support.fails(401))
            const answer = yield* Support.askHttp(base, session, "no space left on device")
            const notice = answer.events.find((event) => event._tag === "status" && event.phase === "notice")
            assert.isTrue(
              notice?._tag === "status" && /openai.*Authentication.*local answerer takes over/.test(notice.message)
            )
            assert.notInclude(JSON.stringify(answer.events), "sk-test")
            assert.isTrue(answer.last?._tag === "done" && answer.last.answerer === "local")
            assert.include(answer.text, "local answerer")
            const { body } = yield* Support.call(base, "GET", `/api/sessions/${session}/history`)
            assert.include(JSON.stringify(body), '"answerer":"local"')
          })
        ),
      60_000
    )

    it.scoped(
      "a model that stays away makes the service degraded, and it goes on answering",
      () =>
        withService((server, base) =>
          Effect.gen(function* () {
            const ask = Effect.flatMap(Support.openSession(base), (id) => Support.askHttp(base, id, "disk full"))
            const ready = Support.call(base, "GET", "/health/ready").pipe(
              Effect.filterOrFail((reply) => /"status":"degraded"/.test(JSON.stringify(reply.body))),
              Effect.retry({ schedule: Schedule.spaced("200 millis"), times: 20 })
            )
            // Without any answer left the model server says 500.
            for (const _ of [1, 2]) assert.strictEqual((yield* ask).last?._tag, "done")
            const { body, status } = yield* ready
            assert.strictEqual(status, 200)
            assert.match(JSON.stringify(body), /"openai\/test-model":\{"status":"down"/)
            const parts = yield* Support.call(base, "GET", "/api/parts")
            assert.match(JSON.stringify(parts.body), /"name":"answers".*"status":"down"/)
            assert.strictEqual(server.answers.length, 0)
          })
        ),
      60_000
    )

    it.scoped(
      "an answer that breaks off in the middle ends with a clear error and is not kept",
      () =>
        withService((server, base) =>
          Effect.gen(function* () {
            const session = yield* Support.openSession(base)
            server.answers.push((_request, response) => {
              response.writeHead(200, { "content-type": "text/event-stream" })
              response.write(Support.chunk({ role: "assistant", content: "Free space" }))
              setTimeout(() => response.destroy(), 50)
            })
            const answer = yield* Support.askHttp(base, session, "no space left on device")
            assert.strictEqual(answer.text, "Free space")
            const last = answer.last
            assert.isTrue(last?._tag === "error" && last.code === "ModelFailed" && last.retryable)
            assert.isTrue(last?._tag === "error" && /stopped in the middle/.test(last.message))
            const { body } = yield* Support.call(base, "GET", `/api/sessions/${session}/history`)
            assert.deepStrictEqual(body, { messages: [] })
            // The session is free again.
            server.answers.push(Support.says("Free space [1]."))
            const again = yield* Support.askHttp(base, session, "no space left on device")
            assert.strictEqual(again.last?._tag, "done")
          })
        ),
      60_000
    )

    it.scoped(
      "a question that must be asked back, or that the runbooks do not cover, does not reach the model",
      () =>
        withService((server, base) =>
          Effect.gen(function* () {
            const session = yield* Support.openSession(base)
            const back = yield* Support.askHttp(base, session, "How do I prevent it?")
            assert.isTrue(back.last?._tag === "done" && back.last.kind === "question")
            const nothing = yield* Support.askHttp(base, session, "who won the world cup in Paris?")
            assert.isTrue(nothing.last?._tag === "done" && nothing.last.kind === "nothing")
            assert.strictEqual(server.requests.length, 0)
          })
        ),
      60_000
    )

    it.scoped(
      "an answer that is being written when the service stops gets a closing event, within five seconds",
      () =>
        Effect.gen(function* () {
          const server = yield* Support.modelServer
          server.answers.push((_request, response) => {
            response.writeHead(200, { "content-type": "text/event-stream" })
            response.write(Support.chunk({ role: "assistant", content: "Free space" }))
          })
          const scope = yield* Scope.make()
          const context = yield* Layer.buildWithScope(Support.serviceOver(Support.withModel(server)), scope)
          const base = yield* Effect.provide(Support.origin, context)
          const session = yield* Effect.provide(Support.openSession(base), context)
          const started = yield* Deferred.make<void>()
          const reading = yield* Support.stream(base, session, "no space left on device").pipe(
            Stream.tap((event) => (event._tag === "delta" ? Deferred.succeed(started, undefined) : Effect.void)),
            Stream.runCollect,
            Effect.provide(NodeHttpClient.layerUndici),
            Effect.fork
          )
          yield* Deferred.await(started)
          const [took] = yield* Effect.timed(Scope.close(scope, Exit.void))
          const last = Chunk.last(yield* Fiber.join(reading))
          assert.isTrue(Option.isSome(last) && last.value._tag === "error" && last.value.code === "ShuttingDown")
          assert.isBelow(Duration.toMillis(took), 5_500)
        }),
      60_000
    )
  }
)
