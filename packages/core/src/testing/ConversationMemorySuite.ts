/**
 * What every conversation memory must do.
 *
 * @since 0.1.0
 */
import * as Chunk from "effect/Chunk"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as ChatMessage from "../state/ChatMessage.ts"
import * as ConversationMemory from "../state/ConversationMemory.ts"
import * as SessionStore from "../state/SessionStore.ts"
import * as Suite from "./Suite.ts"

/**
 * What an adapter may have beyond the port: `plant`, that a test can put any text where a message is kept.
 *
 * @since 0.1.0
 * @category models
 */
export type Capability = "plant"

/**
 * What the suite needs of the test that runs it.
 *
 * @since 0.1.0
 * @category models
 */
export interface Options<R> {
  /** Lets time pass for the memory: by `TestClock` for one that goes by `Clock`, by ageing its keys for another. */
  readonly advance: (duration: Duration.Duration) => Effect.Effect<void, unknown, R>
  /** Adds a text to a conversation as it is, as another program could: the capability `plant`. */
  readonly plant?: ((conversation: string, text: string) => Effect.Effect<void, unknown, R>) | undefined
}

const { assistant, system, user } = ChatMessage

const call = (...ids: ReadonlyArray<string>): ChatMessage.ChatMessage => ({
  role: "assistant",
  content: ids.map((id) => ({ type: "tool-call", id, name: "look", arguments: { at: id } }))
})

const result = (...ids: ReadonlyArray<string>): ChatMessage.ChatMessage => ({
  role: "tool",
  content: ids.map((id) => ({ type: "tool-result", id, name: "look", result: [id, null] }))
})

const one: ConversationMemory.Count = () => 1

/**
 * The suite. Every case has a conversation of its own, so all of them can run on one memory.
 *
 * @since 0.1.0
 * @category testing
 */
export const make = <R = never>(
  options: Options<R>
): Suite.Suite<Capability, ConversationMemory.ConversationMemory | R> => {
  const { advance } = options
  const plant = options.plant ?? (() => Effect.dieMessage("the capability `plant` needs the option `plant`"))
  const body = (
    run: (memory: ConversationMemory.Service, conversation: string) => Effect.Effect<void, unknown, R>
  ): Effect.Effect<void, unknown, ConversationMemory.ConversationMemory | R> =>
    Effect.flatMap(ConversationMemory.ConversationMemory, (memory) =>
      Effect.flatMap(SessionStore.makeId, (id) => run(memory, id))
    )
  const scenario = (
    name: string,
    run: (memory: ConversationMemory.Service, conversation: string) => Effect.Effect<void, unknown, R>
  ) => Suite.test(name, body(run))

  return Suite.make<Capability, ConversationMemory.ConversationMemory | R>("ConversationMemory", [
    scenario("a conversation that was never begun is empty", (memory, id) =>
      Effect.gen(function* () {
        yield* Suite.equal("recent", yield* memory.recent(id), [])
        yield* Suite.equal("summary", yield* memory.summary(id), Option.none())
        yield* Suite.equal("clear", yield* memory.clear(id), false)
        const trimmed = yield* memory.trim(id, { maxTokens: 10 })
        yield* Suite.equal("trim", trimmed, { kept: [], dropped: [], tokens: 0 })
        yield* Suite.equal("append of nothing", yield* memory.append(id, []), 0)
        yield* Suite.equal("makes nothing", yield* memory.clear(id), false)
      })
    ),
    scenario("gives messages back in their order, every kind of them", (memory, id) =>
      Effect.gen(function* () {
        const messages: ReadonlyArray<ChatMessage.ChatMessage> = [
          system("be kind"),
          {
            role: "user",
            content: [
              { type: "text", text: "grüße \u{1F30D}" },
              { type: "file", mediaType: "image/png", source: { type: "bytes", bytes: new Uint8Array([0, 255, 10]) } },
              { type: "file", mediaType: "image/png", source: { type: "url", url: "https://example.com/a.png" } }
            ]
          },
          {
            role: "assistant",
            content: [
              { type: "reasoning", text: "hm", signature: "proof", provider: "anthropic" },
              { type: "tool-call", id: "1", name: "look", arguments: { deep: [1, { a: null }] } }
            ]
          },
          { role: "tool", content: [{ type: "tool-result", id: "1", name: "look", result: "no", isError: true }] },
          assistant("done")
        ]
        yield* Suite.equal("the number", yield* memory.append(id, messages.slice(0, 2)), 2)
        yield* Suite.equal("the number", yield* memory.append(id, messages.slice(2)), 5)
        yield* Suite.equal("all", yield* memory.recent(id), messages)
        yield* Suite.equal("the last", yield* memory.recent(id, 1), [assistant("done")])
        yield* Suite.equal("none", yield* memory.recent(id, 0), [])
        yield* Suite.equal("more than there are", yield* memory.recent(id, 100), messages)
      })
    ),
    scenario("concurrent appends lose nothing and stay whole", (memory, id) =>
      Effect.gen(function* () {
        yield* Effect.forEach(Chunk.range(1, 50), (n) => memory.append(id, [user(`${n}`), assistant(`${n}`)]), {
          concurrency: "unbounded"
        })
        const messages = yield* memory.recent(id)
        yield* Suite.equal("all", messages.length, 100)
        const torn = messages.filter(
          (message, index) =>
            message.role === "user" &&
            ChatMessage.textOf(message) !== ChatMessage.textOf(messages[index + 1] ?? message)
        )
        yield* Suite.equal("none torn", torn, [])
      })
    ),
    scenario("conversations do not mix", (memory, id) =>
      Effect.gen(function* () {
        yield* memory.append(id, [user("a")])
        yield* memory.append(`${id}-2`, [user("b")])
        yield* memory.setSummary(`${id}-2`, "about b")
        yield* Suite.equal("a", yield* memory.recent(id), [user("a")])
        yield* Suite.equal("a's summary", yield* memory.summary(id), Option.none())
        yield* memory.clear(`${id}-2`)
        yield* Suite.equal("a stays", yield* memory.recent(id), [user("a")])
      })
    ),
    scenario("recent does not show a result without its call", (memory, id) =>
      Effect.gen(function* () {
        yield* memory.append(id, [user("q"), call("1", "2"), result("1"), result("2"), assistant("a")])
        yield* Suite.equal("two", yield* memory.recent(id, 2), [assistant("a")])
        yield* Suite.equal("three", yield* memory.recent(id, 3), [assistant("a")])
        yield* Suite.equal("four", (yield* memory.recent(id, 4)).length, 4)
        const other = `${id}-2`
        yield* memory.append(other, [call("1"), call("2"), result("1", "2")])
        yield* Suite.equal("of two answers the one", yield* memory.recent(other, 2), [call("2"), result("2")])
      })
    ),
    scenario("trim drops the oldest until the rest fits, and says what", (memory, id) =>
      Effect.gen(function* () {
        const messages = [user("1"), assistant("2"), user("3"), assistant("4")]
        yield* memory.append(id, messages)
        const trimmed = yield* memory.trim(id, { maxTokens: 2, count: one })
        yield* Suite.equal("trimmed", trimmed, { kept: messages.slice(2), dropped: messages.slice(0, 2), tokens: 2 })
        yield* Suite.equal("stored", yield* memory.recent(id), messages.slice(2))
        const again = yield* memory.trim(id, { maxTokens: 2, count: one })
        yield* Suite.equal("nothing more", again.dropped, [])
        yield* memory.trim(id, { maxTokens: 0, count: one })
        yield* Suite.equal("to nothing", yield* memory.recent(id), [])
      })
    ),
    scenario("trim never separates a tool's result from its call", (memory, id) =>
      Effect.gen(function* () {
        const messages = [user("q"), call("1", "2"), result("1"), result("2"), assistant("a"), user("r")]
        for (let maxTokens = 0; maxTokens <= messages.length; maxTokens++) {
          const conversation = `${id}-${maxTokens}`
          yield* memory.append(conversation, messages)
          const { kept, tokens } = yield* memory.trim(conversation, { maxTokens, count: one })
          yield* Suite.isTrue("fits", tokens <= maxTokens && tokens === kept.length)
          const ofTools = kept.filter((message) => message.role === "tool" || isCall(message)).length
          const whole = kept.filter((message) => message.role === "tool").length
          yield* Suite.isTrue("whole or not at all", whole === 0 || whole === 2)
          yield* Suite.isTrue("with its call", whole === 0 || kept.some((message) => isCall(message)))
          yield* Suite.isTrue("no call alone", ofTools === 0 || whole === 2)
          yield* Suite.equal("stored", yield* memory.recent(conversation), kept)
        }
      })
    ),
    scenario("trim keeps system messages, wherever they are", (memory, id) =>
      Effect.gen(function* () {
        yield* memory.append(id, [system("s"), user("1"), assistant("2"), system("t"), user("3")])
        const trimmed = yield* memory.trim(id, { maxTokens: 3, count: one })
        yield* Suite.equal("kept", trimmed.kept, [system("s"), system("t"), user("3")])
        const hard = yield* memory.trim(id, { maxTokens: 1, count: one })
        yield* Suite.equal("even alone", hard, { kept: [system("s"), system("t")], dropped: [user("3")], tokens: 2 })
        yield* Suite.equal("stored", yield* memory.recent(id), [system("s"), system("t")])
      })
    ),
    scenario("what is appended while a trim runs is not lost", (memory, id) =>
      Effect.gen(function* () {
        yield* memory.append(
          id,
          Array.from({ length: 40 }, (_, index) => user(`old ${index}`))
        )
        yield* Effect.all(
          [
            Effect.forEach(Chunk.range(1, 20), (n) => memory.append(id, [user(`new ${n}`)]), { concurrency: 1 }),
            Effect.repeatN(memory.trim(id, { maxTokens: 30, count: one }), 5)
          ],
          { concurrency: 2 }
        )
        const texts = (yield* memory.recent(id)).map(ChatMessage.textOf)
        for (let n = 1; n <= 20; n++) yield* Suite.isTrue(`new ${n}`, texts.includes(`new ${n}`))
      })
    ),
    scenario("keeps a summary beside the messages", (memory, id) =>
      Effect.gen(function* () {
        yield* memory.setSummary(id, "first")
        yield* memory.append(id, [user("a")])
        yield* memory.setSummary(id, "second \u{1F30D}")
        yield* Suite.equal("summary", yield* memory.summary(id), Option.some("second \u{1F30D}"))
        yield* memory.trim(id, { maxTokens: 0, count: one })
        yield* Suite.equal("after a trim", yield* memory.summary(id), Option.some("second \u{1F30D}"))
        yield* Suite.equal("clear", yield* memory.clear(id), true)
        yield* Suite.equal("after clear", yield* memory.summary(id), Option.none())
        yield* Suite.equal("messages after clear", yield* memory.recent(id), [])
      })
    ),
    scenario("a conversation lives half an hour after it was last touched", (memory, id) =>
      Effect.gen(function* () {
        yield* memory.append(id, [user("a")])
        yield* memory.setSummary(id, "s")
        yield* advance(Duration.minutes(25))
        yield* Suite.equal("reading touches", (yield* memory.recent(id)).length, 1)
        yield* advance(Duration.minutes(25))
        yield* Suite.equal("the summary too", yield* memory.summary(id), Option.some("s"))
        yield* advance(Duration.minutes(25))
        yield* memory.append(id, [user("b")])
        yield* advance(Duration.minutes(31))
        yield* Suite.equal("expired", yield* memory.recent(id), [])
        yield* Suite.equal("with its summary", yield* memory.summary(id), Option.none())
      })
    ),
    scenario("what cannot be kept is refused, all of it", (memory, id) =>
      Effect.gen(function* () {
        const wrong: ChatMessage.ChatMessage = {
          role: "assistant",
          content: [{ type: "tool-call", id: "1", name: "n", arguments: { big: 1n } }]
        }
        yield* Suite.fails(
          "append",
          memory.append(id, [user("fine"), wrong]),
          (error) => error.reason === "InvalidMessage"
        )
        yield* Suite.equal("nothing was kept", yield* memory.recent(id), [])
        for (const bad of ["", "a".repeat(513), "a{b}", "a\nb", "a\udc00"]) {
          yield* Suite.fails("an id", memory.recent(bad), (error) => error.reason === "InvalidId")
        }
        for (const limit of [-1, 1.5, Number.NaN]) {
          yield* Suite.fails("a limit", memory.recent(id, limit), (error) => error.reason === "InvalidOptions")
        }
        yield* Suite.fails("tokens", memory.trim(id, { maxTokens: -1 }), (error) => error.reason === "InvalidOptions")
      })
    ),
    Suite.testWith(
      "a stored text that is no message is left out",
      ["plant"],
      body((memory, id) =>
        Effect.gen(function* () {
          yield* memory.append(id, [user("a")])
          for (const text of ["", "{", "null", '{"role":"nobody"}']) yield* plant(id, text)
          yield* memory.append(id, [user("b")])
          yield* Suite.equal("recent", yield* memory.recent(id), [user("a"), user("b")])
          yield* memory.trim(id, { maxTokens: 1, count: one })
          yield* Suite.equal("after a trim", yield* memory.recent(id), [user("b")])
        })
      )
    )
  ])
}

const isCall = (message: ChatMessage.ChatMessage): boolean =>
  message.role === "assistant" && message.content.some((part) => part.type === "tool-call")
