import { HttpClient, HttpClientRequest } from "@effect/platform"
import { assert, describe, layer } from "@effect/vitest"
import { Effect, Fiber, Schedule, Stream } from "effect"
import { maxQuestion } from "../src/Api.ts"
import * as Support from "./support.ts"

layer(Support.service(), { timeout: "60 seconds", excludeTestServices: true })("the API", (it) => {
  describe("sessions", () => {
    it.effect("an id is random: 256 bits, never twice", () =>
      Effect.gen(function* () {
        const base = yield* Support.origin
        const created = yield* Support.call(base, "POST", "/api/sessions")
        assert.strictEqual(created.status, 201)
        const ids = yield* Effect.all(Array.from({ length: 20 }, () => Support.openSession(base)))
        assert.strictEqual(new Set(ids).size, 20)
        for (const id of ids) assert.match(id, /^[A-Za-z0-9_-]{43}$/)
      })
    )

    it.effect("an unknown session is 404, for questions and for the history", () =>
      Effect.gen(function* () {
        const base = yield* Support.origin
        const asked = yield* Support.call(base, "POST", "/api/sessions/unknown/ask", { question: "disk full" })
        assert.strictEqual(asked.status, 404)
        assert.propertyVal(asked.body, "_tag", "SessionNotFound")
        const history = yield* Support.call(base, "GET", "/api/sessions/unknown/history")
        assert.strictEqual(history.status, 404)
      })
    )
  })

  describe("questions", () => {
    it.effect("the answer is a stream of server-sent events: status, sources, deltas, done", () =>
      Effect.gen(function* () {
        const base = yield* Support.origin
        const session = yield* Support.openSession(base)
        const answer = yield* Support.askHttp(base, session, "no space left on device")
        const kinds = answer.events.map((event) => event._tag).filter((tag, at, all) => tag !== all[at - 1])
        assert.deepStrictEqual(kinds, ["status", "sources", "status", "delta", "done"])
        assert.isAbove(answer.events.filter((event) => event._tag === "delta").length, 10)
        assert.strictEqual(answer.runbooks[0], "disk-full")
        assert.include(answer.text, "local answerer")
        const done = answer.last
        assert.isTrue(done?._tag === "done" && done.kind === "answer" && done.answerer === "local")
        // Every number in the text is one of the sources.
        const numbers = Array.from(answer.text.matchAll(/\[(\d+)\]/g), (match) => Number(match[1]))
        assert.isNotEmpty(numbers)
        for (const number of numbers) assert.isTrue(answer.sources.some((source) => source.number === number))
      })
    )

    it.effect("the frames are what the standard says, with the name of each event", () =>
      Effect.gen(function* () {
        const base = yield* Support.origin
        const session = yield* Support.openSession(base)
        const client = yield* HttpClient.HttpClient
        const response = yield* client.execute(
          HttpClientRequest.post(`${base}/api/sessions/${session}/ask`).pipe(
            HttpClientRequest.bodyText('{"question":"no space left on device"}', "application/json")
          )
        )
        const text = yield* response.text
        assert.match(response.headers["content-type"] ?? "", /^text\/event-stream/)
        assert.strictEqual(response.headers["cache-control"], "no-store")
        const frames = text.split("\n\n").filter((frame) => frame !== "")
        for (const frame of frames) assert.match(frame, /^event: (status|sources|delta|done)\ndata: \{.*\}$/)
      }).pipe(Effect.scoped)
    )

    it.effect("two clients at once do not mix", () =>
      Effect.gen(function* () {
        const base = yield* Support.origin
        const topics = ["no space left on device", "our certificate has expired", "redis refuses connections"]
        const right = ["disk-full", "certificate-expiry", "redis-connection-refused"]
        const second = yield* Effect.forEach(
          topics,
          (topic) =>
            Effect.gen(function* () {
              const session = yield* Support.openSession(base)
              yield* Support.askHttp(base, session, topic)
              return yield* Support.askHttp(base, session, "How do I prevent it?")
            }),
          { concurrency: "unbounded" }
        )
        assert.deepStrictEqual(
          second.map((answer) => answer.runbooks),
          right.map((runbook) => [runbook])
        )
      })
    )

    it.effect("a second question in a session that is being answered is 409", () =>
      Effect.gen(function* () {
        const base = yield* Support.origin
        const session = yield* Support.openSession(base)
        const replies = yield* Effect.forEach(
          Array.from({ length: 8 }),
          () => Support.call(base, "POST", `/api/sessions/${session}/ask`, { question: "no space left on device" }),
          { concurrency: "unbounded" }
        )
        const statuses = new Set(replies.map((reply) => reply.status))
        assert.isTrue(statuses.has(200))
        for (const status of statuses) assert.include([200, 409], status)
        const busy = replies.find((reply) => reply.status === 409)
        if (busy !== undefined) assert.propertyVal(busy.body, "_tag", "SessionBusy")
        const { body } = yield* Support.call(base, "GET", `/api/sessions/${session}/history`)
        assert.strictEqual(
          (body as { readonly messages: ReadonlyArray<unknown> }).messages.length,
          2 * replies.filter((reply) => reply.status === 200).length
        )
      })
    )

    it.effect("a client that goes away frees its session", () =>
      Effect.gen(function* () {
        const base = yield* Support.origin
        const session = yield* Support.openSession(base)
        const reading = yield* Effect.fork(
          Stream.runDrain(Stream.take(Support.stream(base, session, "no space left on device"), 3))
        )
        yield* Fiber.join(reading)
        const again = Support.askHttp(base, session, "redis refuses connections").pipe(
          Effect.retry({ schedule: Schedule.spaced("50 millis"), times: 40 }),
          Effect.timeout("5 seconds")
        )
        const answer = yield* again
        assert.strictEqual(answer.last?._tag, "done")
      })
    )
  })

  describe("bad input", () => {
    const cases: ReadonlyArray<readonly [title: string, body: unknown, about: RegExp]> = [
      ["an empty question", { question: "  " }, /question.*must not be empty/],
      ["no question", {}, /question/],
      ["a question that is no text", { question: 7 }, /question/],
      ["a question that is too long", { question: "x".repeat(maxQuestion + 1) }, /question.*must not be longer/],
      ["a body that is no JSON", '{"question', /not valid JSON/],
      ["no body", "", /Expected|question/]
    ]
    for (const [title, body, about] of cases) {
      it.effect(`${title} is 400 with a message that says what is wrong`, () =>
        Effect.gen(function* () {
          const base = yield* Support.origin
          const session = yield* Support.openSession(base)
          const reply = yield* Support.call(base, "POST", `/api/sessions/${session}/ask`, body)
          assert.strictEqual(reply.status, 400)
          assert.propertyVal(reply.body, "_tag", "BadRequest")
          assert.match((reply.body as { readonly message: string }).message, about)
        })
      )
    }

    it.effect("an id with other characters is 400", () =>
      Effect.gen(function* () {
        const base = yield* Support.origin
        const reply = yield* Support.call(base, "GET", "/api/sessions/%7Bx%7D/history")
        assert.strictEqual(reply.status, 400)
      })
    )

    it.effect("a body over the limit is 413", () =>
      Effect.gen(function* () {
        const base = yield* Support.origin
        const session = yield* Support.openSession(base)
        const reply = yield* Support.call(base, "POST", `/api/sessions/${session}/ask`, {
          question: "x".repeat(40_000)
        })
        assert.strictEqual(reply.status, 413)
      })
    )

    it.effect("an unknown address is 404 as JSON", () =>
      Effect.gen(function* () {
        const reply = yield* Support.call(yield* Support.origin, "GET", "/api/nothing")
        assert.strictEqual(reply.status, 404)
        assert.propertyVal(reply.body, "_tag", "NotFound")
      })
    )
  })

  describe("operations", () => {
    it.effect("parts: which are embedded and which are real, with their health", () =>
      Effect.gen(function* () {
        const { body, status } = yield* Support.call(yield* Support.origin, "GET", "/api/parts")
        assert.strictEqual(status, 200)
        const { parts } = body as { readonly parts: ReadonlyArray<Record<string, string>> }
        assert.deepStrictEqual(
          parts.map(({ mode, name, status }) => [name, mode, status]),
          [
            ["sessions", "embedded", "up"],
            ["search", "embedded", "up"],
            ["embeddings", "embedded", "up"],
            ["answers", "embedded", "up"]
          ]
        )
      })
    )

    it.effect("health: live, ready, all", () =>
      Effect.gen(function* () {
        const base = yield* Support.origin
        for (const path of ["/health/live", "/health/ready", "/health"]) {
          const { body, status } = yield* Support.call(base, "GET", path)
          assert.strictEqual(status, 200, path)
          assert.propertyVal(body, "status", "up")
        }
        const { body } = yield* Support.call(base, "GET", "/health/ready")
        assert.containsAllKeys((body as { readonly checks: object }).checks, ["pglite", "assistant"])
      })
    )

    it.effect("metrics count the answers", () =>
      Effect.gen(function* () {
        const base = yield* Support.origin
        const session = yield* Support.openSession(base)
        yield* Support.askHttp(base, session, "no space left on device")
        const { body, headers } = yield* Support.call(base, "GET", "/metrics")
        assert.match(headers["content-type"] ?? "", /^text\/plain; version=0\.0\.4/)
        assert.match(String(body), /assistant_questions(_total)?\{outcome="answer"\} [1-9]/)
        assert.match(String(body), /assistant_answer_seconds_count [1-9]/)
      })
    )

    it.effect("a correlation id is taken over or made, and given back", () =>
      Effect.gen(function* () {
        const base = yield* Support.origin
        const client = yield* HttpClient.HttpClient
        const given = yield* client.execute(
          HttpClientRequest.get(`${base}/api/parts`).pipe(HttpClientRequest.setHeader("x-correlation-id", "order-17"))
        )
        assert.strictEqual(given.headers["x-correlation-id"], "order-17")
        const made = yield* Support.call(base, "GET", "/api/parts")
        assert.match(made.headers["x-correlation-id"] ?? "", /^[0-9a-f-]{36}$/)
      }).pipe(Effect.scoped)
    )

    it.effect("the page comes with a policy that allows nothing from elsewhere", () =>
      Effect.gen(function* () {
        const { body, headers, status } = yield* Support.call(yield* Support.origin, "GET", "/")
        assert.strictEqual(status, 200)
        assert.match(headers["content-type"] ?? "", /^text\/html/)
        assert.include(headers["content-security-policy"] ?? "", "default-src 'none'")
        assert.notMatch(String(body), /https?:\/\//)
        assert.notMatch(String(body), /<script>|style=|onclick=/)
      })
    )

    it.effect("the API describes itself", () =>
      Effect.gen(function* () {
        const { body } = yield* Support.call(yield* Support.origin, "GET", "/openapi.json")
        assert.containsAllKeys((body as { readonly paths: object }).paths, [
          "/api/sessions",
          "/api/sessions/{id}/ask",
          "/api/sessions/{id}/history",
          "/api/parts"
        ])
      })
    )
  })
})
