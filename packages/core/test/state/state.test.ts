import { assert, describe, it } from "@effect/vitest"
import { ChatMessage, ConversationMemory, SessionStore, SessionTtl } from "@underlay/core"
import { Duration, Effect, FastCheck, Logger, Option, TestClock } from "effect"

describe("SessionStore", () => {
  it.effect("last_activity is the time of the write, by Clock", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore.SessionStore
      yield* TestClock.setTime(Date.parse("2025-01-15T10:30:45.123Z"))
      yield* store.set("a", {})
      assert.deepStrictEqual(yield* store.get("a"), Option.some({ last_activity: "2025-01-15T10:30:45.123Z" }))
    }).pipe(Effect.provide(SessionStore.layerMemory()))
  )

  it.effect("the memory store is bounded: the session used least recently goes first", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore.SessionStore
      for (const id of ["a", "b", "c"]) yield* store.set(id, { user_id: "u" })
      yield* store.get("a")
      yield* store.set("d", { user_id: "u" })
      const there = yield* Effect.filter(["a", "b", "c", "d"], store.exists)
      assert.deepStrictEqual(there, ["a", "c", "d"])
      assert.deepStrictEqual((yield* store.sessionsOf("u")).map((one) => one.id).sort(), ["a", "c", "d"])
    }).pipe(Effect.provide(SessionStore.layerMemory({ capacity: 3 })))
  )

  it.effect("the memory store: prolonging a session is a use of it", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore.SessionStore
      for (const id of ["a", "b"]) yield* store.set(id, {})
      yield* store.extendTtl("a")
      yield* store.set("c", {})
      assert.deepStrictEqual(yield* Effect.filter(["a", "b", "c"], store.exists), ["a", "c"])
    }).pipe(Effect.provide(SessionStore.layerMemory({ capacity: 2 })))
  )

  it.effect("a capacity that is no number is no licence to grow for ever", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore.SessionStore
      for (const id of ["a", "b"]) yield* store.set(id, {})
      assert.deepStrictEqual(yield* Effect.filter(["a", "b"], store.exists), ["b"])
    }).pipe(Effect.provide(SessionStore.layerMemory({ capacity: Number.NaN })))
  )

  it.effect("options that cannot be fail the layer", () =>
    Effect.gen(function* () {
      for (const options of [{ defaultTtl: 0 }, { defaultTtl: Duration.infinity }, { tombstone: -1 }]) {
        const error = yield* Effect.flip(Effect.provide(SessionStore.SessionStore, SessionStore.layerMemory(options)))
        assert.strictEqual(error.reason, "InvalidTtl")
      }
    })
  )

  const texts = (text: string): SessionStore.Backend => {
    const unused = () => Effect.dieMessage("not used here")
    return {
      get: () => Effect.succeed(text),
      getAndTouch: () => Effect.succeed(text),
      set: unused,
      create: unused,
      replace: unused,
      isGone: unused,
      delete: unused,
      exists: unused,
      extendTtl: unused,
      rotate: unused,
      owned: unused,
      disown: unused,
      cleanUp: unused
    }
  }

  it.effect("a corrupt entry is warned of once, without its content or its whole id, and is none", () =>
    Effect.gen(function* () {
      const lines: Array<string> = []
      const logger = Logger.make(({ logLevel, message }) => {
        lines.push(`${logLevel.label} ${JSON.stringify(message)}`)
      })
      const store = yield* SessionStore.make(texts("{secret"))
      const reads = Effect.all([store.get("secret-id"), store.getAndTouch("secret-id"), store.get("secret-id")])
      const read = yield* Effect.provide(reads, Logger.replace(Logger.defaultLogger, logger))
      assert.deepStrictEqual(read, [Option.none(), Option.none(), Option.none()])
      assert.lengthOf(lines, 1)
      assert.match(lines[0] ?? "", /^WARN/)
      assert.notInclude(lines[0], "secret-id")
      assert.notInclude(lines[0], "{secret")
    })
  )

  it.effect("a corrupt entry is a typed failure by option", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore.make(texts("[]"), { onCorrupt: "fail" })
      assert.strictEqual((yield* Effect.flip(store.get("a"))).reason, "Corrupt")
    })
  )

  it.effect("an update that meets another writer each time gives up, typed and retryable", () =>
    Effect.gen(function* () {
      let rounds = 0
      const store = yield* SessionStore.make(
        {
          ...texts('{"n":0}'),
          replace: () => Effect.sync(() => ({ _tag: "Changed" as const, current: `{"n":${++rounds}}` }))
        },
        { updateAttempts: 5 }
      )
      const error = yield* Effect.flip(store.update("a", (session) => ({ ...session })))
      assert.deepStrictEqual([error.reason, error.isRetryable, rounds], ["Conflict", true, 5])
    })
  )

  it.effect("a text that does not equal itself is corrupt: nobody tries for ever to change it", () =>
    Effect.gen(function* () {
      let tries = 0
      const changed = Effect.sync(() => {
        tries++
        return { _tag: "Changed" as const, current: '{"n":"\ufffd"}' }
      })
      const store = yield* SessionStore.make(
        { ...texts('{"n":"\ufffd"}'), replace: () => changed, rotate: () => changed },
        { onCorrupt: "fail" }
      )
      assert.strictEqual((yield* Effect.flip(store.update("a", (session) => ({ ...session })))).reason, "Corrupt")
      assert.strictEqual((yield* Effect.flip(store.rotate("a"))).reason, "Corrupt")
      assert.strictEqual(tries, 2)
    })
  )

  it.effect("an index that cannot heal now is no failure of the listing, nor of the sign-out", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore.make({
        ...texts(""),
        owned: () => Effect.succeed([["a", '{"user_id":"u"}'] as const, ["b", undefined] as const]),
        delete: (ids) => Effect.succeed(ids.map(() => true)),
        disown: () =>
          new SessionStore.SessionStoreError({
            reason: "Rejected",
            method: "sessionsOf",
            description: "read-only",
            outcome: "not-done"
          })
      })
      assert.deepStrictEqual(yield* store.sessionsOf("u"), [{ id: "a", session: { user_id: "u" } }])
      assert.isAbove(yield* store.deleteAllOf("u"), 0)
    })
  )

  it.effect("a failure names the operation that was asked for, and what was only read is not done", () =>
    Effect.gen(function* () {
      const lost = new SessionStore.SessionStoreError({
        reason: "Timeout",
        method: "get",
        description: "late",
        outcome: "unknown"
      })
      const store = yield* SessionStore.make({ ...texts(""), get: () => lost, owned: () => lost })
      for (const error of [
        yield* Effect.flip(store.update("a", (session) => session)),
        yield* Effect.flip(store.rotate("a"))
      ]) {
        assert.notStrictEqual(error.method, "get")
        assert.deepStrictEqual([error.outcome, error.isRetryable], ["not-done", true])
      }
      assert.strictEqual((yield* Effect.flip(store.deleteAllOf("u"))).method, "deleteAllOf")
    })
  )

  it("an unknown outcome is retryable only where doing it twice is harmless", () => {
    const error = (method: string) =>
      new SessionStore.SessionStoreError({ reason: "Timeout", method, description: "late", outcome: "unknown" })
    for (const method of ["get", "set", "delete", "extendTtl"]) assert.isTrue(error(method).isRetryable, method)
    for (const method of ["create", "update", "rotate"]) assert.isFalse(error(method).isRetryable, method)
  })

  it.effect("new ids are long, random and fit everywhere", () =>
    Effect.gen(function* () {
      const ids = yield* Effect.replicateEffect(SessionStore.makeId, 1_000)
      assert.strictEqual(new Set(ids).size, 1_000)
      for (const id of ids) assert.match(id, /^[A-Za-z0-9_-]{43}$/)
    })
  )
})

describe("SessionTtl", () => {
  const now = Date.parse("2025-01-15T12:00:00.000Z")
  const since = (seconds: number): SessionStore.Session => ({
    last_activity: new Date(now - seconds * 1_000).toISOString()
  })
  const seconds = (session: SessionStore.Session, policy = SessionTtl.standard) =>
    Duration.toSeconds(policy(session, now))

  it("the table of the standard policy", () => {
    assert.strictEqual(seconds(since(0)), 3_600)
    assert.strictEqual(seconds(since(299)), 3_600)
    assert.strictEqual(seconds(since(300)), 1_800)
    assert.strictEqual(seconds(since(1_799)), 1_800)
    assert.strictEqual(seconds(since(1_800)), 900)
    assert.strictEqual(seconds(since(100_000)), 900)
  })
  it("days count: an age is not taken modulo a day", () => {
    assert.strictEqual(seconds(since(86_400 + 10)), 900)
  })
  it("activity in the future is activity now; an unreadable one gets the usual time", () => {
    assert.strictEqual(seconds(since(-3_600)), 3_600)
    assert.strictEqual(seconds({}), 1_800)
    assert.strictEqual(seconds({ last_activity: "yesterday" }), 1_800)
    assert.strictEqual(seconds({ last_activity: 12 }), 1_800)
  })
  it("an idle session lives at least a quarter of an hour, and none more than two hours", () => {
    assert.strictEqual(seconds(since(9_999), SessionTtl.make({ defaultTtl: "10 minutes" })), 900)
    assert.strictEqual(seconds(since(9_999), SessionTtl.make({ defaultTtl: "1 hour" })), 1_800)
    assert.strictEqual(seconds(since(0), SessionTtl.make({ activeTtl: "1 day" })), 7_200)
    assert.strictEqual(
      seconds(
        {},
        SessionTtl.atMost("2 hours", () => Duration.days(1))
      ),
      7_200
    )
  })
  it.effect("apply gives a session the time of the policy", () =>
    Effect.gen(function* () {
      const store = yield* SessionStore.SessionStore
      yield* store.set("a", {}, { ttl: "1 minute" })
      assert.isTrue(yield* SessionTtl.apply(store, "a"))
      assert.isFalse(yield* SessionTtl.apply(store, "b"))
      yield* TestClock.adjust("59 minutes")
      assert.isTrue(yield* store.exists("a"))
      yield* TestClock.adjust("1 minute")
      assert.isFalse(yield* store.exists("a"))
    }).pipe(Effect.provide(SessionStore.layerMemory()))
  )
})

describe("ConversationMemory", () => {
  const call = (...ids: ReadonlyArray<string>): ChatMessage.ChatMessage => ({
    role: "assistant",
    content: ids.map((id) => ({ type: "tool-call", id, name: "look", arguments: null }))
  })
  const result = (...ids: ReadonlyArray<string>): ChatMessage.ChatMessage => ({
    role: "tool",
    content: ids.map((id) => ({ type: "tool-result", id, name: "look", result: null }))
  })
  const message = FastCheck.oneof(
    FastCheck.constant(ChatMessage.user("question")),
    FastCheck.constant(ChatMessage.assistant("answer")),
    FastCheck.constant(ChatMessage.system("rule")),
    FastCheck.array(FastCheck.constantFrom("1", "2", "3"), { minLength: 1, maxLength: 3 }).map((ids) => call(...ids)),
    FastCheck.array(FastCheck.constantFrom("1", "2", "3"), { minLength: 1, maxLength: 2 }).map((ids) => result(...ids))
  )
  const conversation = FastCheck.array(message, { maxLength: 20 }).map((all) => all.map((one) => ({ ...one })))

  it("units are the messages, in their order, none twice and none lost", () => {
    FastCheck.assert(
      FastCheck.property(conversation, (messages) => {
        assert.deepStrictEqual(ConversationMemory.units(messages).flat(), messages)
      })
    )
  })

  it("trimming keeps within the limit but for system messages, keeps order, loses nothing, tears no unit", () => {
    FastCheck.assert(
      FastCheck.property(conversation, FastCheck.nat(25), (messages, maxTokens) => {
        const { dropped, kept, tokens } = ConversationMemory.trimMessages(messages, { maxTokens, count: () => 1 })
        const system = messages.filter((one) => one.role === "system")
        assert.strictEqual(tokens, kept.length)
        assert.isAtMost(tokens, Math.max(maxTokens, system.length))
        assert.deepStrictEqual(
          messages.filter((one) => kept.includes(one)),
          kept
        )
        assert.deepStrictEqual(
          messages.filter((one) => !kept.includes(one)),
          dropped
        )
        for (const one of system) assert.isTrue(kept.includes(one))
        for (const unit of ConversationMemory.units(messages)) {
          const parts = unit.filter((one) => one.role !== "system")
          const there = parts.filter((one) => kept.includes(one)).length
          assert.isTrue(there === 0 || there === parts.length)
        }
      })
    )
  })

  it("a call whose result comes after something else was said stays with it", () => {
    const messages = [call("1"), ChatMessage.user("wait"), result("1"), ChatMessage.assistant("done")]
    assert.deepStrictEqual(ConversationMemory.units(messages), [messages.slice(0, 3), messages.slice(3)])
  })

  it.effect("keeps no more messages than the maximum, and shows no result without its call after that", () =>
    Effect.gen(function* () {
      const memory = yield* ConversationMemory.ConversationMemory
      yield* memory.append("a", [ChatMessage.user("1"), call("1"), result("1")])
      assert.strictEqual(yield* memory.append("a", [ChatMessage.user("2"), ChatMessage.assistant("3")]), 3)
      assert.deepStrictEqual(yield* memory.recent("a"), [ChatMessage.user("2"), ChatMessage.assistant("3")])
    }).pipe(Effect.provide(ConversationMemory.layerMemory({ maxMessages: 3 })))
  )

  it.effect("of more messages than are kept the store is sent those that are", () =>
    Effect.gen(function* () {
      const sent: Array<ReadonlyArray<string>> = []
      const nothing = () => Effect.dieMessage("not asked for")
      const memory = yield* ConversationMemory.make(
        {
          append: (_, texts) =>
            Effect.sync(() => {
              sent.push(texts)
              return texts.length
            }),
          recent: nothing,
          replaceHead: nothing,
          summary: nothing,
          setSummary: nothing,
          clear: nothing
        },
        { maxMessages: 3 }
      )
      const messages = ["1", "2", "3", "4", "5"].map((text) => ChatMessage.user(text))
      assert.strictEqual(yield* memory.append("a", messages), 3)
      assert.deepStrictEqual(
        sent.map((texts) => texts.map((text) => ChatMessage.textOf(JSON.parse(text)))),
        [["3", "4", "5"]]
      )
      // all or none: one that is not sent must be a message too
      const error = yield* Effect.flip(memory.append("a", [{ role: "nobody" } as never, ...messages]))
      assert.deepStrictEqual([error.reason, sent.length], ["InvalidMessage", 1])
    })
  )

  it.effect("trim does not show a result whose call is gone, as recent does not", () =>
    Effect.gen(function* () {
      const memory = yield* ConversationMemory.ConversationMemory
      const call = (id: string): ChatMessage.ChatMessage => ({
        role: "assistant",
        content: [{ type: "tool-call", id, name: "look", arguments: {} }]
      })
      const result = (...ids: ReadonlyArray<string>): ChatMessage.ChatMessage => ({
        role: "tool",
        content: ids.map((id) => ({ type: "tool-result", id, name: "look", result: id }))
      })
      // more than are kept: the first call goes, and its result stands alone
      yield* memory.append("a", [call("1"), call("2"), result("1", "2"), ChatMessage.user("q")])
      const seen = yield* memory.recent("a")
      assert.deepStrictEqual(seen, [call("2"), result("2"), ChatMessage.user("q")])
      const all = yield* memory.trim("a", { maxTokens: 10, count: () => 1 })
      assert.deepStrictEqual(all, { kept: seen, dropped: [], tokens: 3 })
      yield* memory.append("b", [call("1"), result("1"), ChatMessage.user("q"), ChatMessage.user("r")])
      const some = yield* memory.trim("b", { maxTokens: 1, count: () => 1 })
      assert.deepStrictEqual(some, { kept: [ChatMessage.user("r")], dropped: [ChatMessage.user("q")], tokens: 1 })
      assert.deepStrictEqual(yield* memory.recent("b"), [ChatMessage.user("r")])
    }).pipe(Effect.provide(ConversationMemory.layerMemory({ maxMessages: 3 })))
  )

  it.effect("options that cannot be fail the layer", () =>
    Effect.gen(function* () {
      for (const options of [{ ttl: 0 }, { maxMessages: 0 }, { maxMessages: 1.5 }]) {
        const error = yield* Effect.flip(
          Effect.provide(ConversationMemory.ConversationMemory, ConversationMemory.layerMemory(options))
        )
        assert.strictEqual(error.reason, "InvalidOptions")
      }
    })
  )

  it("an append whose outcome is unknown is not retryable: it could say things twice", () => {
    const error = (method: string) =>
      new ConversationMemory.ConversationMemoryError({
        reason: "Timeout",
        method,
        description: "late",
        outcome: "unknown"
      })
    assert.isFalse(error("append").isRetryable)
    assert.isTrue(error("recent").isRetryable)
  })
})
