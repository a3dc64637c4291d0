/** Values by schema: the way they are asked for, what is done about answers that do not fit, and the JSON Schemas sent. */
import { assert, describe, it } from "@effect/vitest"
import { ChatMessage } from "@underlay/core"
import { Llm, LlmError, type LlmObject, type LlmRequest, LlmTest, LlmTool } from "@underlay/llm"
import { Arbitrary, Effect, FastCheck, Option, Schema, Stream } from "effect"
import * as JsonSchema from "../src/internal/jsonSchema.ts"

class City extends Schema.Class<City>("City")({
  name: Schema.String.annotations({ description: "its name in English" }),
  people: Schema.Int
}) {}

interface Tree {
  readonly name: string
  readonly children: ReadonlyArray<Tree>
}
const Tree: Schema.Schema<Tree> = Schema.Struct({
  name: Schema.String,
  children: Schema.Array(Schema.suspend((): Schema.Schema<Tree> => Tree))
}).annotations({ identifier: "Tree" })

const berlin = JSON.stringify({ name: "Berlin", people: 3_700_000 })
const ask: Llm.LlmRequest = { messages: [ChatMessage.system("be brief"), ChatMessage.user("the capital?")] }

const refused = (issue = "response_format is not supported"): LlmError.LlmError =>
  new LlmError.LlmError({
    reason: "InvalidRequest",
    method: "generate",
    provider: "scripted",
    status: 400,
    providerMessage: issue,
    retryable: false,
    midStream: false
  })

const scripted =
  (...replies: ReadonlyArray<LlmTest.Reply>) =>
  <A, E>(effect: Effect.Effect<A, E, Llm.Llm | LlmTest.Script>) =>
    effect.pipe(Effect.provide(LlmTest.layerScripted({ replies })))

const requests = Effect.map(
  Effect.flatMap(LlmTest.Script, (script) => script.requests),
  (asked) => asked.map(({ request }) => request)
)

const kindOf = (request: LlmRequest.LlmRequest | undefined): string =>
  request?.responseFormat?.type === "json-schema"
    ? "native"
    : typeof request?.toolChoice === "object"
      ? "tool"
      : "prompt"

const toolAnswer = (args: unknown): LlmTest.Answer => ({ toolCalls: [{ id: "a", name: "City", arguments: args }] })

const object = (options?: LlmObject.ObjectOptions) => Llm.generateObject(City, ask, options)

describe("the way a value is asked for", () => {
  it.effect("is the provider's own format, where it takes it", () =>
    Effect.gen(function* () {
      const found = yield* object()
      assert.deepStrictEqual(found.value, new City({ name: "Berlin", people: 3_700_000 }))
      assert.deepStrictEqual([found.mode, found.repaired], ["native", false])
      const [request] = yield* requests
      assert.deepInclude(request?.responseFormat, { type: "json-schema", name: "City", strict: true })
    }).pipe(scripted(berlin))
  )

  it.effect("is a tool where the format is refused, and words where tools are refused too", () =>
    Effect.gen(function* () {
      const byTool = yield* object()
      assert.deepStrictEqual([byTool.mode, byTool.value.name], ["tool", "Berlin"])
      const [first, second] = yield* requests
      assert.deepStrictEqual([first, second].map(kindOf), ["native", "tool"])
      assert.isUndefined(second?.responseFormat)
      assert.deepStrictEqual(second?.toolChoice, { name: "City" })
      assert.deepStrictEqual(
        second?.tools?.map(({ name, strict }) => [name, strict]),
        [["City", true]]
      )
    }).pipe(scripted(refused(), toolAnswer({ name: "Berlin", people: 1 })))
  )

  it.effect("is remembered for each model, so that a refusal is met once", () =>
    Effect.gen(function* () {
      assert.strictEqual((yield* object()).mode, "prompt")
      assert.strictEqual((yield* object()).mode, "prompt")
      const other = yield* Llm.generateObject(City, { ...ask, model: "another" })
      assert.strictEqual(other.mode, "native")
      assert.deepStrictEqual((yield* requests).map(kindOf), ["native", "tool", "prompt", "prompt", "native"])
      const [, , request] = yield* requests
      const [instructions, shown] = request?.messages ?? []
      assert.deepStrictEqual(instructions, ChatMessage.system("be brief"))
      assert.include(shown === undefined ? "" : ChatMessage.textOf(shown), '"its name in English"')
    }).pipe(scripted(refused(), refused("no tools"), berlin, berlin, berlin))
  )

  const Other = Schema.Struct({ other: Schema.String })
  const other = JSON.stringify({ other: "x" })
  const said: ReadonlyArray<readonly [string, "model" | "schema", string]> = [
    ["OpenAI", "model", "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model."],
    ["Groq", "model", "This model does not support response format `json_schema`. See supported models"],
    ["DeepSeek", "model", "This response_format type is unavailable now"],
    ["a strict reader of fields", "model", "response_format: Extra inputs are not permitted"],
    [
      "OpenAI of a schema",
      "schema",
      "Invalid schema for response_format 'City': In context=(), 'oneOf' is not permitted."
    ],
    ["Anthropic of a schema", "schema", "output_config.format.schema: property 'minimum' is not supported"],
    ["who does not say why", "schema", "Bad Request"]
  ]
  for (const [who, scope, words] of said) {
    it.effect(`is remembered for the ${scope} after the words of ${who}`, () =>
      Effect.gen(function* () {
        yield* object()
        yield* Llm.generateObject(Other, ask)
        yield* object()
        assert.deepStrictEqual(
          (yield* requests).map(kindOf),
          scope === "model" ? ["native", "tool", "tool", "tool"] : ["native", "tool", "native", "tool"]
        )
      }).pipe(
        scripted(
          refused(words),
          toolAnswer({ name: "Berlin", people: 1 }),
          scope === "model" ? { toolCalls: [{ name: "answer", arguments: { other: "x" } }] } : other,
          toolAnswer({ name: "Berlin", people: 1 })
        )
      )
    )
  }

  const strictOf = (request: LlmRequest.LlmRequest | undefined): boolean =>
    request?.responseFormat?.type === "json-schema"
      ? request.responseFormat.strict === true
      : request?.tools?.[0]?.strict === true
  const notStrict = "`strict: true` is not supported with this model"

  for (const structuredOutput of ["auto", "native"] as const) {
    it.effect(
      `is not strict where a model cannot be held to a schema, and that is remembered, ${structuredOutput}`,
      () =>
        Effect.gen(function* () {
          assert.strictEqual((yield* object({ structuredOutput })).mode, "native")
          yield* Llm.generateObject(Other, ask, { structuredOutput })
          assert.deepStrictEqual(
            (yield* requests).map((request) => [kindOf(request), strictOf(request)]),
            [
              ["native", true],
              ["native", false],
              ["native", false]
            ]
          )
        }).pipe(scripted(refused(notStrict), berlin, other))
    )
  }

  it.effect("is a tool that is not strict where both are refused", () =>
    Effect.gen(function* () {
      assert.strictEqual((yield* object()).mode, "tool")
      assert.deepStrictEqual(
        (yield* requests).map((request) => [kindOf(request), strictOf(request)]),
        [
          ["native", true],
          ["tool", true],
          ["tool", false]
        ]
      )
    }).pipe(scripted(refused(), refused(notStrict), toolAnswer({ name: "Berlin", people: 1 })))
  )

  it.effect("is not remembered where our own protocol refused a schema: it costs nothing to ask it again", () =>
    Effect.gen(function* () {
      const own = new LlmError.LlmError({
        reason: "InvalidRequest",
        method: "generate",
        provider: "scripted",
        issue: "this format is not supported",
        retryable: false,
        midStream: false
      })
      const replies = [own, toolAnswer({ name: "Berlin", people: 1 }), own, toolAnswer({ name: "Bonn", people: 1 })]
      const kinds = Effect.gen(function* () {
        yield* object()
        yield* object()
        return (yield* requests).map(kindOf)
      }).pipe(scripted(...replies))
      assert.deepStrictEqual(yield* kinds, ["native", "tool", "native", "tool"])
    })
  )

  it.effect("after a refusal of reasoning beside a forced tool holds for requests with that reasoning only", () =>
    Effect.gen(function* () {
      const thinking = { ...ask, reasoningEffort: "high" }
      yield* Llm.generateObject(City, thinking, { structuredOutput: "auto" })
      yield* Llm.generateObject(City, thinking)
      yield* object()
      assert.deepStrictEqual((yield* requests).map(kindOf), ["native", "tool", "prompt", "prompt", "native"])
    }).pipe(
      scripted(
        refused("no"),
        refused("Thinking may not be enabled when tool_choice forces tool use."),
        berlin,
        berlin,
        berlin
      )
    )
  )

  it.effect("does not hide why a request is refused that is wrong in any way", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(object())
      assert.deepStrictEqual([error.reason, error.providerMessage], ["InvalidRequest", "bad image"])
      // Nothing was learned from it.
      assert.strictEqual((yield* object()).mode, "native")
    }).pipe(scripted(refused("bad image"), refused("still bad"), refused("bad"), berlin))
  )

  it.effect("is not changed by errors that have nothing to do with it", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(object())
      assert.strictEqual(error.reason, "QuotaExhausted")
      assert.strictEqual((yield* requests).length, 1)
    }).pipe(scripted(LlmTest.error("QuotaExhausted")))
  )

  for (const [mode, reply] of [
    ["native", berlin],
    ["tool", toolAnswer({ name: "Berlin", people: 1 })],
    ["prompt", berlin]
  ] as const) {
    it.effect(`is ${mode} where that is said, and no other`, () =>
      Effect.gen(function* () {
        const found = yield* object({ structuredOutput: mode })
        assert.deepStrictEqual([found.mode, found.value.name], [mode, "Berlin"])
        assert.strictEqual((yield* Effect.flip(object({ structuredOutput: mode }))).reason, "InvalidRequest")
        assert.deepStrictEqual((yield* requests).map(kindOf), [mode, mode])
      }).pipe(scripted(reply, refused()))
    )
  }

  it.effect("leaves the tools of the conversation known, but not to be called", () =>
    Effect.gen(function* () {
      const weather = LlmTool.make("City", { parameters: Schema.Struct({}) })
      const request = { ...ask, tools: [weather] }
      yield* Llm.generateObject(City, request)
      yield* Llm.generateObject(City, request, { structuredOutput: "tool" })
      const [native, tool] = yield* requests
      assert.deepStrictEqual([native?.toolChoice, native?.tools?.length], ["none", 1])
      assert.deepStrictEqual(
        tool?.tools?.map(({ name }) => name),
        ["City", "City_"]
      )
      assert.deepStrictEqual(tool?.toolChoice, { name: "City_" })
    }).pipe(scripted(berlin, { toolCalls: [{ name: "City_", arguments: { name: "x", people: 1 } }] }))
  )
})

describe("an answer that does not fit", () => {
  it.effect("is asked for once more with what is wrong, its usage added", () =>
    Effect.gen(function* () {
      const found = yield* object()
      assert.deepStrictEqual([found.value.people, found.repaired], [3_700_000, true])
      assert.deepStrictEqual(found.usage, {
        input: 30,
        output: 3,
        cachedInput: undefined,
        cacheWrite: undefined,
        reasoning: undefined
      })
      const [, second] = yield* requests
      assert.deepStrictEqual(
        second?.messages.map(({ role }) => role),
        ["system", "user", "assistant", "user"]
      )
      const words = ChatMessage.textOf(second?.messages.at(-1) ?? ChatMessage.user(""))
      assert.include(words, "people")
    }).pipe(
      scripted(
        { text: '{"name":"Berlin","people":"many"}', usage: { input: 10, output: 1 } },
        { text: berlin, usage: { input: 20, output: 2 } }
      )
    )
  )

  it.effect("is paid for, also where the next request fails", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(object())
      assert.strictEqual(error.reason, "RateLimited")
      assert.deepInclude(error.usage, { input: 5, output: 2 })
    }).pipe(scripted({ text: "no", usage: { input: 5, output: 2 } }, LlmTest.error("RateLimited")))
  )

  it.effect("is asked for as often as is said, and no more", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(object({ repair: 2 }))
      assert.deepStrictEqual([error.reason, error.method], ["MalformedResponse", "generateObject"])
      assert.strictEqual((yield* requests).length, 3)
      const never = yield* Effect.flip(object({ repair: false }))
      assert.include(never.issue, "people: Missing")
      assert.notInclude(never.message, "Berlin")
      assert.strictEqual((yield* requests).length, 4)
    }).pipe(scripted("no", "no", "no", '{"name":"Berlin"}'))
  )

  it.effect("to a tool is answered as the result of its call, and of every other call", () =>
    Effect.gen(function* () {
      const found = yield* object({ structuredOutput: "tool" })
      assert.isTrue(found.repaired)
      const [, second] = yield* requests
      const [call, result] = second?.messages.slice(-2) ?? []
      assert.deepStrictEqual([call?.role, result?.role], ["assistant", "tool"])
      const results = result?.role === "tool" ? result.content : []
      assert.deepStrictEqual(
        results.map(({ id, isError }) => [id, isError]),
        [
          ["a", true],
          ["b", true]
        ]
      )
      assert.include(String(results[0]?.result), "people")
    }).pipe(
      scripted(
        {
          toolCalls: [
            { id: "a", name: "City", arguments: { name: "Berlin" } },
            { id: "b", name: "other", arguments: {} }
          ]
        },
        toolAnswer({ name: "Berlin", people: 1 })
      )
    )
  )

  it.effect("which the server itself has refused is asked for again in the same way", () =>
    Effect.gen(function* () {
      const found = yield* object()
      assert.strictEqual(found.mode, "native")
      assert.deepStrictEqual((yield* requests).map(kindOf), ["native", "native"])
    }).pipe(scripted(new LlmError.LlmError({ ...refused(), code: "json_validate_failed" }), berlin))
  )

  it.effect("because it was cut off, refused or withheld is not asked for again", () =>
    Effect.gen(function* () {
      assert.include((yield* Effect.flip(object())).issue, "cut off")
      assert.strictEqual((yield* Effect.flip(object())).reason, "ContentFiltered")
      assert.strictEqual((yield* Effect.flip(object())).reason, "ContentFiltered")
      assert.strictEqual((yield* requests).length, 3)
    }).pipe(
      scripted({ text: '{"name":', finish: "length" }, { refusal: "no" }, { text: "{}", finish: "content-filter" })
    )
  )

  const wrappings: ReadonlyArray<readonly [string, string]> = [
    ["a fence", `\`\`\`json\n${berlin}\n\`\`\``],
    ["words and a fence", `Here you are:\n\n\`\`\`json\n${berlin}\n\`\`\`\nAnything else?`],
    ["words alone", `Sure! ${berlin} Is that right?`],
    ["reasoning in tags", `<think>{"name": 1}</think>\n${berlin}`],
    ["a fence that is never closed", `\`\`\`json\n${berlin}`],
    ["an end of reasoning in its texts", `<think>a</think>${berlin.replace("Berlin", "</think>")}`]
  ]
  for (const [name, text] of wrappings) {
    it.effect(`only because of ${name} round it does fit`, () =>
      Effect.gen(function* () {
        const found = yield* object({ repair: false })
        assert.strictEqual(found.value.people, 3_700_000)
      }).pipe(scripted(text))
    )
  }
})

describe("an answer in words", () => {
  it.effect("is a list where a list is in it, not the one object of that list", () =>
    Effect.gen(function* () {
      const found = yield* Llm.generateObject(Schema.Array(City), ask, { repair: false })
      assert.strictEqual(found.value.length, 1)
    }).pipe(scripted(`Here it is: [${berlin}].`))
  )

  it.effect("is looked through in linear time, whatever blanks are in it", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(object({ repair: false }))
      assert.strictEqual(error.issue, "the answer is not JSON")
    }).pipe(scripted({ steps: [`\`\`\`json\n${" \t".repeat(400_000)}x`] }))
  )
})

describe("properties that may be left out", () => {
  const Person = Schema.Struct({
    name: Schema.String,
    nick: Schema.optional(Schema.String),
    age: Schema.optional(Schema.NullOr(Schema.Int)),
    note: Schema.optionalWith(Schema.String, { as: "Option" }),
    home: Schema.optional(City),
    pets: Schema.Array(
      Schema.Union(
        Schema.Struct({ kind: Schema.Literal("cat"), lives: Schema.optional(Schema.Int) }),
        Schema.Struct({ kind: Schema.Literal("dog"), lives: Schema.NullOr(Schema.Int) })
      )
    )
  })
  const nulls = {
    name: "Ann",
    nick: null,
    age: null,
    note: null,
    home: null,
    pets: [
      { kind: "cat", lives: null },
      { kind: "dog", lives: null }
    ]
  }
  const plain = { name: "Ann", age: null, note: Option.none(), pets: [{ kind: "cat" }, { kind: "dog", lives: null }] }

  for (const optionalProperties of ["nullable", undefined] as const) {
    it.effect(`are ${optionalProperties ?? "sent as they are"} as the format wants them`, () =>
      Effect.gen(function* () {
        const asked: Array<LlmRequest.LlmRequest> = []
        const llm = Llm.make({
          provider: "p",
          model: "m",
          generate: (request) =>
            Effect.suspend(() => {
              asked.push(request)
              const text = JSON.stringify(nulls)
              return Effect.succeed({
                text,
                reasoning: "",
                toolCalls: [],
                content: [],
                finish: "stop" as const,
                usage: {}
              })
            }),
          stream: () => Stream.empty,
          optionalProperties
        })
        const found = yield* llm.generateObject(Person, ask, { repair: false })
        assert.deepStrictEqual(found.value as unknown, plain)
        const format = asked[0]?.responseFormat
        if (format?.type !== "json-schema") return assert.fail("no format")
        assert.strictEqual(format.strict === true, optionalProperties === "nullable")
        assert.deepStrictEqual(
          format.schema["required"],
          optionalProperties === "nullable" ? ["name", "nick", "age", "note", "home", "pets"] : ["name", "pets"]
        )
      })
    )
  }

  it.effect("may be null in the arguments of tools", () =>
    Effect.gen(function* () {
      const tool = LlmTool.make("person", { parameters: Person })
      assert.deepStrictEqual((yield* LlmTool.decode(tool, { arguments: nulls })) as unknown, plain)
    })
  )

  it("are left alone where an object has none, or what it has may be anything", () => {
    const schema = JsonSchema.fromSchema(Schema.Struct({ a: Schema.optional(Schema.Unknown), b: Schema.NullOr(City) }))
    const answer = JSON.parse('{"a":null,"b":null,"c":null,"__proto__":null}')
    assert.deepStrictEqual(Object.entries(JsonSchema.withoutNulls(schema, answer) as object), Object.entries(answer))
    const closed = JsonSchema.fromSchema(City)
    assert.deepStrictEqual(JsonSchema.nullable(closed), closed)
  })

  it.effect("are found in schemas that refer to themselves", () =>
    Effect.gen(function* () {
      interface Node {
        readonly label: string
        readonly next?: Node | undefined
      }
      const Node: Schema.Schema<Node> = Schema.Struct({
        label: Schema.String,
        next: Schema.optional(Schema.suspend((): Schema.Schema<Node> => Node))
      }).annotations({ identifier: "Node" })
      const json = JsonSchema.fromSchema(Node)
      assert.isTrue(JsonSchema.isEnforceable(JsonSchema.nullable(json)))
      const found = yield* Llm.generateObject(Node, ask, { repair: false })
      assert.deepStrictEqual(found.value, { label: "a", next: { label: "b" } })
    }).pipe(scripted('{"label":"a","next":{"label":"b","next":null}}'))
  )

  const encode = Schema.encodeSync(Person)

  it.effect("whatever fits the schema is read as it is (law)", () =>
    Effect.sync(() => {
      FastCheck.assert(
        FastCheck.property(Arbitrary.make(Person), (person) => {
          const encoded = JSON.parse(JSON.stringify(encode(person)))
          assert.deepStrictEqual(JsonSchema.withoutNulls(JsonSchema.fromSchema(Person), encoded), encoded)
        })
      )
    })
  )
})

describe("a value that was not wrapped", () => {
  const Sized = Schema.Union(
    Schema.Struct({ kind: Schema.Literal("size"), value: Schema.Int }),
    Schema.Struct({ kind: Schema.Literal("name") })
  )

  for (const mode of ["native", "tool"] as const) {
    it.effect(`is read although it has a property of the wrapping's name, ${mode}`, () =>
      Effect.gen(function* () {
        const found = yield* Llm.generateObject(Sized, ask, { name: "City", repair: false, structuredOutput: mode })
        assert.deepStrictEqual(found.value, { kind: "size", value: 3 })
        const tool = LlmTool.make("sized", { parameters: Sized })
        assert.deepStrictEqual(yield* LlmTool.decode(tool, { arguments: found.value }), found.value)
        assert.deepStrictEqual(yield* LlmTool.decode(tool, { arguments: { value: found.value } }), found.value)
        assert.strictEqual((yield* Effect.flip(LlmTool.decode(tool, { arguments: 1 })))._tag, "ParseError")
      }).pipe(
        scripted(mode === "tool" ? toolAnswer({ kind: "size", value: 3 }) : JSON.stringify({ kind: "size", value: 3 }))
      )
    )
  }
})

describe("schemas of any form", () => {
  const cases: ReadonlyArray<readonly [string, Schema.Schema<unknown, unknown>, unknown, boolean]> = [
    [
      "recursive",
      Tree as Schema.Schema<unknown, unknown>,
      { name: "a", children: [{ name: "b", children: [] }] },
      false
    ],
    ["a list", Schema.Array(City) as never, [{ name: "a", people: 1 }], true],
    ["a union", Schema.Union(City, Tree) as never, { name: "a", people: 1 }, true],
    ["a literal", Schema.Literal("yes", "no") as never, "yes", true],
    ["a number", Schema.Int as never, 7, true],
    ["a date", Schema.Date as never, "2025-01-01T00:00:00.000Z", true],
    ["null or a value", Schema.NullOr(Schema.String) as never, null, true]
  ]
  for (const [name, schema, encoded, wrapped] of cases) {
    for (const mode of ["native", "tool", "prompt"] as const) {
      const value = wrapped ? { value: encoded } : encoded
      it.effect(`${name}, ${mode}: the root sent is an object, and the value comes back`, () =>
        Effect.gen(function* () {
          const found = yield* Llm.generateObject(schema, ask, { name: "City", structuredOutput: mode })
          assert.deepStrictEqual(yield* Schema.encode(schema)(found.value), encoded)
          const [request] = yield* requests
          const format = request?.responseFormat
          const sent = format?.type === "json-schema" ? format.schema : request?.tools?.[0]?.parameters
          if (mode !== "prompt") assert.strictEqual(sent?.["type"], "object")
        }).pipe(scripted(mode === "tool" ? toolAnswer(value) : JSON.stringify(value)))
      )
    }
  }

  it("whatever value a schema has fits the JSON Schema's wrapping", () => {
    FastCheck.assert(
      FastCheck.property(FastCheck.jsonValue(), (value) => {
        assert.deepStrictEqual(JsonSchema.unwrap({ value }), value)
      })
    )
  })
})

describe("JSON Schemas", () => {
  const propertiesOf = (schema: Schema.Schema.AnyNoContext) =>
    JsonSchema.fromAst(schema.ast)["properties"] as Record<string, { readonly description?: string }>

  it("keep every description: of fields, of fields with a default, of refined dates, of nested ones", () => {
    const properties = propertiesOf(
      Schema.Struct({
        plain: Schema.String.annotations({ description: "one" }),
        signed: Schema.propertySignature(Schema.String).annotations({ description: "two" }),
        defaulted: Schema.optionalWith(Schema.String, { default: () => "" }).annotations({ description: "three" }),
        renamed: Schema.propertySignature(Schema.String)
          .annotations({ description: "four" })
          .pipe(Schema.fromKey("re-named")),
        date: Schema.Date.annotations({ description: "five" }),
        list: Schema.Array(Schema.Struct({ at: Schema.Date.annotations({ description: "six" }) }))
      })
    )
    assert.strictEqual(properties["plain"]?.description, "one")
    assert.strictEqual(properties["signed"]?.description, "two")
    assert.strictEqual(properties["defaulted"]?.description, "three")
    assert.strictEqual(properties["re-named"]?.description, "four")
    assert.match(properties["date"]?.description ?? "", /^five/)
    assert.include(JSON.stringify(properties["list"]), '"six')
  })

  it("have no words that only Effect knows, and leave values that look like them alone", () => {
    const schema = Schema.Struct({
      any: Schema.Unknown,
      none: Schema.Struct({}),
      kind: Schema.Enums({ A: "a" } as const),
      $id: Schema.Literal("/schemas/any")
    })
    const json = JsonSchema.fromSchema(schema)
    const text = JSON.stringify(json)
    assert.notMatch(text, /"\$id":"|\$comment/)
    const properties = json["properties"] as Record<string, unknown>
    assert.deepStrictEqual(properties["none"], {
      type: "object",
      properties: {},
      required: [],
      additionalProperties: false
    })
    assert.deepInclude(properties["$id"] as object, { enum: ["/schemas/any"] })
  })

  it("are to be enforced only with words that providers enforce", () => {
    const strict = (schema: Schema.Schema.AnyNoContext) => JsonSchema.isEnforceable(JsonSchema.fromAst(schema.ast))
    assert.isTrue(strict(Tree as Schema.Schema.AnyNoContext))
    assert.isTrue(strict(Schema.Struct({})))
    assert.isFalse(strict(Schema.Struct({ a: Schema.NonEmptyString })))
    assert.isFalse(strict(Schema.Struct({ a: Schema.Unknown })))
  })
})
