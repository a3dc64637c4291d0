import * as Fs from "node:fs"
import * as Path from "node:path"
import { assert, layer } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { Assistant } from "../src/Assistant.ts"
import * as Support from "./support.ts"

const Questions = Schema.Struct({ followUps: Schema.Array(Schema.String) })

const followUps = Effect.flatMap(
  Effect.sync(() => Fs.readFileSync(Path.join(Support.folder, "test", "questions.json"), "utf8")),
  Schema.decodeUnknown(Schema.parseJson(Questions))
).pipe(Effect.map((questions) => questions.followUps))

const kindOf = (answer: Support.Answer): string | undefined =>
  answer.last?._tag === "done" ? answer.last.kind : answer.last?._tag

layer(Support.assistant(), { timeout: "60 seconds" })("a conversation", (it) => {
  it.effect("'How do I prevent it?' cites the section on prevention of the first question's runbook", () =>
    Effect.gen(function* () {
      const session = yield* Support.newSession
      yield* Support.ask(session, "no space left on device")
      const answer = yield* Support.ask(session, "How do I prevent it?")
      assert.deepStrictEqual(answer.runbooks, ["disk-full"])
      assert.strictEqual(answer.sources[0]?.heading, "Prevent")
      assert.include(answer.text, "[1]")
    })
  )

  it.effect("every kind of second question stays with the runbook of the first, whichever it is", () =>
    Effect.gen(function* () {
      const wrong: Array<string> = []
      for (const first of [
        "redis refuses connections",
        "our tls certificate has expired",
        "jobs pile up in the queue"
      ]) {
        for (const second of [
          ...(yield* followUps),
          "why does that happen?",
          "How can I fix this",
          "who should I call?",
          "what should I check first?",
          "Can you explain that in more detail?"
        ]) {
          const session = yield* Support.newSession
          const before = yield* Support.ask(session, first)
          const answer = yield* Support.ask(session, second)
          if (answer.runbooks[0] !== before.runbooks[0]) {
            wrong.push(`${first} / ${second} -> ${answer.runbooks[0] ?? kindOf(answer)}`)
          }
        }
      }
      assert.deepStrictEqual(wrong, [])
    })
  )

  it.effect("in a fresh session such a question is answered by asking what is meant", () =>
    Effect.gen(function* () {
      for (const question of [...(yield* followUps), "Why does it happen?", "How can I fix this?", "hello"]) {
        const answer = yield* Support.ask(yield* Support.newSession, question)
        assert.strictEqual(kindOf(answer), "question", question)
        assert.deepStrictEqual(answer.sources, [], question)
        assert.include(answer.text, "?", question)
      }
    })
  )

  it.effect("what is asked back does not become the topic: the answer to it does", () =>
    Effect.gen(function* () {
      const session = yield* Support.newSession
      yield* Support.ask(session, "How do I prevent it?")
      yield* Support.ask(session, "redis has run out of memory")
      const answer = yield* Support.ask(session, "How do I prevent it?")
      assert.deepStrictEqual(answer.runbooks, ["redis-memory-full"])
    })
  )

  it.effect("a new topic switches, and a question after it belongs to the new one", () =>
    Effect.gen(function* () {
      const session = yield* Support.newSession
      yield* Support.ask(session, "no space left on device")
      const switched = yield* Support.ask(session, "the postgres replica is far behind the primary")
      assert.strictEqual(switched.runbooks[0], "postgres-replication-lag")
      const answer = yield* Support.ask(session, "How do I prevent it?")
      assert.deepStrictEqual(answer.runbooks, ["postgres-replication-lag"])
    })
  )

  it.effect("a question about something else is not answered from the runbooks, and the topic stays", () =>
    Effect.gen(function* () {
      const session = yield* Support.newSession
      yield* Support.ask(session, "no space left on device")
      const other = yield* Support.ask(session, "who won the world cup in Paris?")
      assert.strictEqual(kindOf(other), "nothing")
      const answer = yield* Support.ask(session, "How do I fix it?")
      assert.deepStrictEqual(answer.runbooks, ["disk-full"])
    })
  )

  it.effect("two clients at once do not mix", () =>
    Effect.gen(function* () {
      const [one, two] = yield* Effect.all([Support.newSession, Support.newSession])
      assert.notStrictEqual(one, two)
      yield* Effect.all(
        [Support.ask(one, "no space left on device"), Support.ask(two, "our certificate has expired")],
        {
          concurrency: 2
        }
      )
      const [first, second] = yield* Effect.all(
        [Support.ask(one, "How do I prevent it?"), Support.ask(two, "How do I prevent it?")],
        { concurrency: 2 }
      )
      assert.deepStrictEqual(first.runbooks, ["disk-full"])
      assert.deepStrictEqual(second.runbooks, ["certificate-expiry"])
      const { history } = yield* Assistant
      const [of1, of2] = yield* Effect.all([history(one), history(two)])
      assert.deepStrictEqual(
        of1.filter((message) => message.role === "user").map((message) => message.text),
        ["no space left on device", "How do I prevent it?"]
      )
      assert.deepStrictEqual(
        of2.filter((message) => message.role === "user").map((message) => message.text),
        ["our certificate has expired", "How do I prevent it?"]
      )
    })
  )

  it.effect("the history holds what each answer cited", () =>
    Effect.gen(function* () {
      const session = yield* Support.newSession
      const answer = yield* Support.ask(session, "no space left on device")
      const { history } = yield* Assistant
      const messages = yield* history(session)
      assert.deepStrictEqual(
        messages.map((message) => message.role),
        ["user", "assistant"]
      )
      assert.strictEqual(messages[1]?.text, answer.text)
      assert.deepStrictEqual(messages[1]?.sources, answer.sources)
      assert.strictEqual(messages[1]?.answerer, "local")
    })
  )

  it.effect("a second question while the first is being answered is refused, and allowed afterwards", () =>
    Effect.gen(function* () {
      const { ask } = yield* Assistant
      const session = yield* Support.newSession
      yield* Effect.scoped(
        Effect.gen(function* () {
          yield* Effect.asVoid(ask(session, "no space left on device"))
          const refused = yield* Effect.flip(Effect.scoped(ask(session, "redis refuses connections")))
          assert.strictEqual(refused._tag, "SessionBusy")
        })
      )
      const answer = yield* Support.ask(session, "redis refuses connections")
      assert.strictEqual(answer.runbooks[0], "redis-connection-refused")
    })
  )

  it.effect("an unknown session is said to be unknown", () =>
    Effect.gen(function* () {
      const { history } = yield* Assistant
      const refused = yield* Effect.flip(Support.ask("no-such-session", "no space left on device"))
      assert.strictEqual(refused._tag, "SessionNotFound")
      assert.strictEqual((yield* Effect.flip(history("no-such-session")))._tag, "SessionNotFound")
    })
  )
})
