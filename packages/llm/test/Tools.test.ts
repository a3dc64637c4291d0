/** Tools: from schemas and from toolkits, and the loop that runs them. */
import { Tool, Toolkit } from "@effect/ai"
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import * as Recording from "@underlay/core/testing/Recording"
import { ChatCompletions, type Llm, LlmTest, LlmTool, LlmToolLoop } from "@underlay/llm"
import { Cause, Chunk, Data, Deferred, Effect, Either, Exit, Fiber, Option, Ref, Schema, Stream } from "effect"

const ask: Llm.LlmRequest = { messages: [ChatMessage.user("the weather in Berlin and Paris?")] }

const scripted =
  (...replies: ReadonlyArray<LlmTest.Reply>) =>
  <A, E, R>(effect: Effect.Effect<A, E, Llm.Llm | LlmTest.Script | R>) =>
    effect.pipe(Effect.provide(LlmTest.layerScripted({ replies })))

const requests = Effect.map(
  Effect.flatMap(LlmTest.Script, (script) => script.requests),
  (asked) => asked.map(({ request }) => request)
)

const weatherTool = LlmTool.make("weather", {
  description: "The weather of a city",
  parameters: Schema.Struct({ city: Schema.String })
})

class Failed extends Data.TaggedError("Failed")<{ readonly message: string }> {}

const weather = LlmToolLoop.handler(weatherTool, ({ city }) =>
  city === "Atlantis"
    ? Effect.fail(new Failed({ message: "no such city" }))
    : Effect.succeed({ city, celsius: city.length })
)

const calls = (...cities: ReadonlyArray<string>): LlmTest.Answer => ({
  toolCalls: cities.map((city, index) => ({ id: `c${index}`, name: "weather", arguments: { city } })),
  usage: { input: 10, output: 5 }
})

const done: LlmTest.Answer = { text: "Mild.", usage: { input: 20, output: 2, cachedInput: 8 } }

/** Every call has its result in the message right after it, and there is no result without its call. */
const assertPaired = (messages: ReadonlyArray<ChatMessage.ChatMessage>): void => {
  messages.forEach((message, index) => {
    const asked = message.role === "assistant" ? message.content.filter((part) => part.type === "tool-call") : []
    const next = messages[index + 1]
    if (asked.length > 0) {
      assert.strictEqual(next?.role, "tool")
      assert.deepStrictEqual(
        next?.role === "tool" ? next.content.map(({ id }) => id) : [],
        asked.map((part) => (part.type === "tool-call" ? part.id : ""))
      )
    }
    if (message.role === "tool") assert.strictEqual(messages[index - 1]?.role, "assistant")
  })
}

describe("LlmTool", () => {
  it("decodes the arguments of a call by its schema", () => {
    const tool = LlmTool.make("f", { parameters: Schema.Struct({ at: Schema.NumberFromString }) })
    const read = (call: { readonly arguments: unknown; readonly invalid?: string }) =>
      Effect.runSync(Effect.either(LlmTool.decode(tool, call)))
    assert.deepStrictEqual(read({ arguments: { at: "7" } }), Either.right({ at: 7 }))
    assert.isTrue(Either.isLeft(read({ arguments: { at: true } })))
    assert.isTrue(Either.isLeft(read({ arguments: { __invalid: "{" }, invalid: "{" })))
  })

  it("has an object for its parameters, whatever its schema is", () => {
    for (const schema of [Schema.Struct({}), Schema.Union(Schema.String, Schema.Int), Schema.Array(Schema.String)]) {
      assert.strictEqual(
        LlmTool.make("f", { parameters: schema as Schema.Schema.AnyNoContext }).parameters["type"],
        "object"
      )
    }
    const list = LlmTool.make("f", { parameters: Schema.Array(Schema.Int) })
    assert.deepStrictEqual(Effect.runSync(LlmTool.decode(list, { arguments: { value: [1, 2] } })), [1, 2])
  })

  it("of a toolkit are what the toolkit has, those without parameters too", () => {
    const toolkit = Toolkit.make(
      Tool.make("now", { description: "The time" }),
      Tool.make("weather", {
        description: "The weather of a city",
        parameters: { city: Schema.String.annotations({ description: "in English" }) },
        success: Schema.Number
      })
    )
    assert.deepStrictEqual(LlmTool.fromToolkit(toolkit), [
      {
        name: "now",
        description: "The time",
        parameters: { type: "object", properties: {}, required: [], additionalProperties: false },
        strict: true
      },
      {
        name: "weather",
        description: "The weather of a city",
        parameters: {
          type: "object",
          properties: { city: { type: "string", description: "in English" } },
          required: ["city"],
          additionalProperties: false
        },
        strict: true
      }
    ])
  })

  it("of a toolkit that the provider runs are left out", () => {
    const search = Tool.providerDefined({
      id: "openai.web_search",
      toolkitName: "OpenAiWebSearch",
      providerName: "web_search",
      args: {}
    })
    const toolkit = Toolkit.make(search({}), Tool.make("now"))
    assert.deepStrictEqual(
      LlmTool.fromToolkit(toolkit).map(({ name }) => name),
      ["now"]
    )
  })
})

describe("the loop", () => {
  it.effect("runs the tools of an answer and sends their results, until there are no more calls", () =>
    Effect.gen(function* () {
      const result = yield* LlmToolLoop.run(ask, [weather])
      assert.deepStrictEqual([result.response.text, result.ended, result.steps.length], ["Mild.", "finished", 2])
      assert.deepStrictEqual(result.usage, {
        input: 30,
        output: 7,
        cachedInput: 8,
        cacheWrite: undefined,
        reasoning: undefined
      })
      assertPaired(result.messages)
      const [first, second] = yield* requests
      assert.deepStrictEqual(first?.tools, [weatherTool])
      assert.deepStrictEqual(second?.messages, [...ask.messages, ...result.messages.slice(0, 2)])
      assert.deepStrictEqual(
        result.steps[0]?.results.map(({ result }) => result),
        [
          { city: "Berlin", celsius: 6 },
          { city: "Rome", celsius: 4 }
        ]
      )
    }).pipe(scripted(calls("Berlin", "Rome"), done))
  )

  it.effect("answers unknown tools, arguments that do not fit or are not JSON, and failures to the model", () =>
    Effect.gen(function* () {
      const result = yield* LlmToolLoop.run(ask, [weather])
      const results = result.steps[0]?.results ?? []
      assert.deepStrictEqual(
        results.map(({ isError }) => isError),
        [true, true, true, true]
      )
      assert.match(String(results[0]?.result), /no tool of this name.*weather/)
      assert.match(String(results[1]?.result), /city/)
      assert.match(String(results[2]?.result), /not JSON/)
      assert.strictEqual(results[3]?.result, "no such city")
      assertPaired(result.messages)
    }).pipe(
      scripted(
        {
          steps: [
            { type: "tool-call", id: "a", name: "whether", arguments: {} },
            { type: "tool-call", id: "b", name: "weather", arguments: { town: 1 } },
            { type: "tool-call", id: "c", name: "weather", arguments: { __invalid: "{" }, invalid: "{" },
            { type: "tool-call", id: "d", name: "weather", arguments: { city: "Atlantis" } }
          ]
        },
        done
      )
    )
  )

  it.effect("does not tell the model a secret that an error has in its message", () =>
    Effect.gen(function* () {
      const leaky = LlmToolLoop.handler(weatherTool, () =>
        Effect.fail(new Failed({ message: "postgres://bob:hunter2@db/x failed" }))
      )
      const result = yield* LlmToolLoop.run(ask, [leaky])
      assert.notInclude(JSON.stringify(result.messages), "hunter2")
    }).pipe(scripted(calls("Berlin"), done))
  )

  it.effect("keeps the order of calls, however long each tool takes, and runs no more at once than it may", () =>
    Effect.gen(function* () {
      const running = yield* Ref.make(0)
      const most = yield* Ref.make(0)
      const slow = LlmToolLoop.handler(weatherTool, ({ city }) =>
        Effect.acquireUseRelease(
          Effect.flatMap(
            Ref.updateAndGet(running, (n) => n + 1),
            (now) => Ref.update(most, (n) => Math.max(n, now))
          ),
          () => Effect.repeatN(Effect.yieldNow(), 10 - city.length),
          () => Ref.update(running, (n) => n - 1)
        ).pipe(Effect.as(city))
      )
      const result = yield* LlmToolLoop.run(ask, [slow], { concurrency: 2 })
      assert.deepStrictEqual(
        result.steps[0]?.results.map(({ result }) => result),
        ["a", "bbbbbb", "cc", "dddd"]
      )
      assert.strictEqual(yield* Ref.get(most), 2)
    }).pipe(scripted(calls("a", "bbbbbb", "cc", "dddd"), done))
  )

  it.effect("ends after so many steps, with every call answered", () =>
    Effect.gen(function* () {
      const result = yield* LlmToolLoop.run(ask, [weather], { maxSteps: 2 })
      assert.deepStrictEqual([result.ended, result.steps.length], ["max-steps", 2])
      assert.strictEqual((yield* requests).length, 2)
      assert.strictEqual(result.messages.at(-1)?.role, "tool")
      assertPaired(result.messages)
    }).pipe(scripted(calls("a"), calls("b"), calls("c")))
  )

  it.effect("leaves the calls of tools that it has no handler for to the caller, and runs none beside them", () =>
    Effect.gen(function* () {
      const ran = yield* Ref.make(0)
      const counted = LlmToolLoop.handler(weatherTool, () => Ref.update(ran, (n) => n + 1))
      const approve = LlmTool.make("approve", { parameters: Schema.Struct({}) })
      const result = yield* LlmToolLoop.run({ ...ask, tools: [approve] }, [counted])
      assert.deepStrictEqual(
        [result.ended, result.pending.map(({ name }) => name)],
        ["unhandled", ["weather", "approve"]]
      )
      assert.strictEqual(yield* Ref.get(ran), 0)
      assert.deepStrictEqual(
        result.messages.map(({ role }) => role),
        ["assistant"]
      )
    }).pipe(
      scripted({
        toolCalls: [
          { id: "a", name: "weather", arguments: { city: "x" } },
          { id: "b", name: "approve" }
        ]
      })
    )
  )

  it.effect("forces a call once only, and goes on by itself after a pause", () =>
    Effect.gen(function* () {
      const result = yield* LlmToolLoop.run({ ...ask, toolChoice: "required" }, [weather])
      assert.strictEqual(result.response.text, "Mild.")
      assert.deepStrictEqual(
        (yield* requests).map(({ toolChoice }) => toolChoice),
        ["required", "auto", "auto"]
      )
    }).pipe(scripted(calls("a"), { text: "wait", finish: "pause" }, done))
  )

  it.effect("fails with the usage of all steps, and what was said till then is not lost (complaint 1)", () =>
    Effect.gen(function* () {
      const kept = yield* Ref.make<LlmToolLoop.Step | undefined>(undefined)
      const error = yield* LlmToolLoop.run(ask, [weather], { onStep: (step) => Ref.set(kept, step) }).pipe(Effect.flip)
      assert.deepStrictEqual([error.reason, error.usage?.input], ["Overloaded", 10])
      const step = yield* Ref.get(kept)
      assertPaired(step?.messages ?? [])
      const again = { ...ask, messages: [...ask.messages, ...(step?.messages ?? [])] }
      assert.strictEqual((yield* LlmToolLoop.run(again, [weather])).response.text, "Mild.")
    }).pipe(scripted(calls("a"), LlmTest.error("Overloaded", { retryable: false }), done))
  )

  it.effect("stops its tools when it is interrupted", () =>
    Effect.gen(function* () {
      const started = yield* Deferred.make<void>()
      const stopped = yield* Ref.make(0)
      const endless = LlmToolLoop.handler(weatherTool, () =>
        Effect.zipRight(Deferred.succeed(started, undefined), Effect.never).pipe(
          Effect.onInterrupt(() => Ref.update(stopped, (n) => n + 1))
        )
      )
      const fiber = yield* Effect.fork(LlmToolLoop.run(ask, [endless]))
      yield* Deferred.await(started)
      const exit = yield* Fiber.interrupt(fiber)
      assert.isTrue(Exit.isInterrupted(exit))
      assert.strictEqual(yield* Ref.get(stopped), 2)
    }).pipe(scripted(calls("a", "b")))
  )

  for (const stream of [false, true]) {
    it.effect(`tells calls apart that a server gave the same id, ${stream ? "streamed" : "whole"}`, () =>
      Effect.gen(function* () {
        const result = stream
          ? yield* LlmToolLoop.stream(ask, [weather]).pipe(
              Stream.filterMap((part) => (part.type === "end" ? Option.some(part.result) : Option.none())),
              Stream.runHead,
              Effect.flatten
            )
          : yield* LlmToolLoop.run(ask, [weather])
        assertPaired(result.messages)
        const ids = result.steps.flatMap(({ results }) => results.map(({ id, result }) => [id, result]))
        assert.deepStrictEqual(ids, [
          ["c0", { city: "a", celsius: 1 }],
          ["c0_2", { city: "bb", celsius: 2 }],
          ["c0_3", { city: "ccc", celsius: 3 }]
        ])
      }).pipe(
        scripted(
          {
            toolCalls: [
              { id: "c0", name: "weather", arguments: { city: "a" } },
              { id: "c0", name: "weather", arguments: { city: "bb" } }
            ]
          },
          calls("ccc"),
          done
        )
      )
    )
  }

  it.effect("gives ids to calls whose server gave them none", () =>
    Effect.gen(function* () {
      const { messages, steps } = yield* LlmToolLoop.run(ask, [weather])
      assertPaired(messages)
      assert.deepStrictEqual(
        steps.flatMap(({ results }) => results.map(({ id }) => id)),
        ["call", "call_2"]
      )
    }).pipe(
      scripted(
        {
          toolCalls: [
            { id: "", name: "weather", arguments: { city: "a" } },
            { id: "", name: "weather", arguments: { city: "bb" } }
          ]
        },
        done
      )
    )
  )

  it.effect("goes on where a result cannot be written into its span", () =>
    Effect.gen(function* () {
      const big = LlmToolLoop.handler(weatherTool, () => Effect.succeed(10n))
      const { steps } = yield* LlmToolLoop.run(ask, [big], { captureContent: true })
      assert.strictEqual(steps[0]?.results[0]?.result, 10n)
    }).pipe(scripted(calls("a"), done))
  )

  it.effect("lets a defect of a tool be a defect", () =>
    Effect.gen(function* () {
      const broken = LlmToolLoop.handler(weatherTool, () => Effect.die(new Error("bug")))
      const exit = yield* Effect.exit(LlmToolLoop.run(ask, [broken]))
      assert.isTrue(Exit.isFailure(exit) && Cause.isDie(exit.cause))
    }).pipe(scripted(calls("a")))
  )

  it.effect("streams everything in order, and ends as when it is run", () =>
    Effect.gen(function* () {
      const parts = Chunk.toReadonlyArray(yield* Stream.runCollect(LlmToolLoop.stream(ask, [weather])))
      assert.deepStrictEqual(
        parts.map((part) => part.type),
        ["text-delta", "tool-call", "tool-call", "tool-result", "tool-result", "step", "text-delta", "step", "end"]
      )
      const last = parts.at(-1)
      const streamed = last?.type === "end" ? last.result : undefined
      const whole = yield* LlmToolLoop.run(ask, [weather])
      assert.deepStrictEqual(streamed, whole)
      assertPaired(streamed?.messages ?? [])
    }).pipe(
      scripted(
        { ...calls("Berlin", "Rome"), text: "Looking." },
        done,
        { ...calls("Berlin", "Rome"), text: "Looking." },
        done
      )
    )
  )

  it.effect("streams what had come before it fails, and the usage of all steps with the error", () =>
    Effect.gen(function* () {
      const seen: Array<string> = []
      const error = yield* LlmToolLoop.stream(ask, [weather]).pipe(
        Stream.runForEach((part) => Effect.sync(() => void seen.push(part.type))),
        Effect.flip
      )
      assert.deepStrictEqual(seen, ["tool-call", "tool-result", "step", "text-delta"])
      assert.deepStrictEqual([error.reason, error.usage?.input], ["Overloaded", 10])
    }).pipe(scripted(calls("a"), { steps: ["half", LlmTest.error("Overloaded", { midStream: true })] }))
  )

  it.effect("runs the tools of a toolkit with its handlers (complaint 15: streaming with a toolkit fails)", () =>
    Effect.gen(function* () {
      const toolkit = Toolkit.make(
        Tool.make("weather", {
          parameters: { city: Schema.String },
          success: Schema.Struct({ at: Schema.Date }),
          failure: Schema.String
        }),
        Tool.make("count", { success: Schema.Number })
      )
      const handlers = LlmToolLoop.fromToolkit(
        yield* toolkit.pipe(
          Effect.provide(
            toolkit.toLayer({
              weather: ({ city }) => (city === "x" ? Effect.fail("no such city") : Effect.succeed({ at: new Date(0) })),
              count: () => Effect.succeed(7)
            })
          )
        )
      )
      const recording = yield* Recording.make
      const parts = Chunk.toReadonlyArray(yield* recording.within(Stream.runCollect(LlmToolLoop.stream(ask, handlers))))
      const handled = (yield* recording.spans).filter(({ name }) => name === "Toolkit.handle")
      assert.deepStrictEqual(
        handled.map(({ attributes }) => [attributes.get("tool"), attributes.has("parameters")]),
        [
          ["weather", false],
          ["weather", false],
          ["count", false]
        ]
      )
      const results = parts.flatMap((part) => (part.type === "tool-result" ? [[part.result, part.isError]] : []))
      // What the schema encodes, primitives too.
      assert.deepStrictEqual(results, [
        [{ at: "1970-01-01T00:00:00.000Z" }, undefined],
        ["no such city", true],
        [7, undefined]
      ])
    }).pipe(
      scripted(
        {
          toolCalls: [
            { id: "a", name: "weather", arguments: { city: "y" } },
            { id: "b", name: "weather", arguments: { city: "x" } },
            { id: "c", name: "count" }
          ]
        },
        done
      )
    )
  )

  it.effect("has one span and one metric for each tool, which hold nothing that was asked or answered", () =>
    Effect.gen(function* () {
      const recording = yield* Recording.make
      yield* recording.within(LlmToolLoop.run(ask, [weather]))
      const spans = (yield* recording.spans).filter(({ name }) => name.startsWith("execute_tool"))
      assert.deepStrictEqual(
        spans.map(({ attributes, name }) => [
          name,
          attributes.get("gen_ai.tool.call.id"),
          attributes.get("error.type")
        ]),
        [
          ["execute_tool weather", "c0", undefined],
          ["execute_tool weather", "c1", "tool_error"]
        ]
      )
      assert.strictEqual(spans[0]?.attributes.get("gen_ai.operation.name"), "execute_tool")
      assert.notInclude(JSON.stringify(spans.map(({ attributes }) => [...attributes])), "Atlantis")
      const metrics = (yield* recording.metrics).filter(({ name }) => name === "gen_ai.execute_tool.duration")
      assert.deepStrictEqual(metrics.map(({ labels }) => labels["error.type"]).sort(), ["tool_error", undefined])
      yield* recording.clear
      yield* recording.within(LlmToolLoop.run(ask, [weather], { captureContent: true }))
      const shown = (yield* recording.spans).find(({ name }) => name === "execute_tool weather")
      assert.strictEqual(shown?.attributes.get("gen_ai.tool.call.arguments"), '{"city":"Rome"}')
      assert.strictEqual(shown?.attributes.get("gen_ai.tool.call.result"), '{"city":"Rome","celsius":4}')
    }).pipe(scripted(calls("Berlin", "Atlantis"), done, calls("Rome"), done))
  )

  it("says what came of it in the words of a wire format", () => {
    const part: ChatMessage.ToolCallPart = { type: "tool-call", id: "a", name: "weather", arguments: { city: "x" } }
    const body = ChatCompletions.encode(
      {
        messages: [
          ...ask.messages,
          { role: "assistant", content: [part] },
          { role: "tool", content: [{ type: "tool-result", id: "a", name: "weather", result: null }] }
        ],
        tools: [weatherTool]
      },
      { model: "m", stream: false, method: "generate", dialect: { provider: "openai" } }
    )
    const sent = JSON.parse(Either.getOrThrow(body))
    // The schema that a tool carries is no part of what is sent.
    assert.deepStrictEqual(Object.keys(sent.tools[0].function).sort(), ["description", "name", "parameters", "strict"])
    assert.deepStrictEqual(sent.messages.at(-1), { role: "tool", tool_call_id: "a", content: "null" })
  })
})
