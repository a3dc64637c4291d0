/**
 * Structured output over a model that generates text: ask with the provider's JSON Schema format, with a tool, or with
 * words; validate, and ask again if the answer does not fit.
 */
import * as ChatMessage from "@underlay/core/state/ChatMessage"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import * as AST from "effect/SchemaAST"
import { LlmError } from "../LlmError.ts"
import type { LlmObject, ObjectOptions, StructuredOutput } from "../LlmObject.ts"
import type { LlmRequest } from "../LlmRequest.ts"
import * as Response from "../LlmResponse.ts"
import * as JsonSchema from "./jsonSchema.ts"
import * as Sse from "./sse.ts"
import { addUsage } from "./usage.ts"

type Mode = Exclude<StructuredOutput, "auto">

/** A way to ask; `loose` does not ask the provider to hold the model to the schema. */
interface Way {
  readonly mode: Mode
  readonly loose: boolean
}

/** The ways to ask, best first. The loose ones are for models that take the format, but cannot be held to a schema. */
const ways: ReadonlyArray<Way> = [
  { mode: "native", loose: false },
  { mode: "native", loose: true },
  { mode: "tool", loose: false },
  { mode: "tool", loose: true },
  { mode: "prompt", loose: false }
]

/** The way that works: for a model, or for one kind of request to it. */
export type Known = Map<string, Way>

// More than these by one layer are names that users made up, or schemas that are made anew for every request.
const maxKnown = 256

/** A model as this module needs it. */
export interface Asked {
  readonly provider: string
  readonly model: string
  readonly generate: (request: LlmRequest) => Effect.Effect<Response.LlmResponse, LlmError>
  readonly structuredOutput?: StructuredOutput | undefined
  /** How the provider wants properties that may be left out, if it is to hold the model to a schema. */
  readonly optionalProperties?: "nullable" | undefined
}

const nameOf = (ast: AST.AST): string => {
  // The identifier of a class is on the side of its instances.
  const identifier = AST.getJSONIdentifier(ast).pipe(
    Option.orElse(() => (AST.isTransformation(ast) ? AST.getJSONIdentifier(ast.to) : Option.none()))
  )
  const name = Option.getOrElse(identifier, () => "")
    .replace(/[^A-Za-z0-9_-]/g, "_")
    .slice(0, 64)
  return name === "" ? "answer" : name
}

/** What stands in fences, the last of which may be open. */
function* fenced(text: string): Generator<string> {
  const fence = "```"
  for (let at = text.indexOf(fence); at !== -1; ) {
    const begin = text.indexOf("\n", at)
    if (begin === -1) return
    const end = text.indexOf(fence, begin)
    yield text.slice(begin, end === -1 ? text.length : end)
    at = end === -1 ? -1 : text.indexOf(fence, end + fence.length)
  }
}

/** The JSON in an answer: models put reasoning, fences and words round it even when they are asked not to. */
const jsonIn = (text: string): Either.Either<unknown, void> => {
  const end = "</think>"
  const places = [text.lastIndexOf(end), text.indexOf(end)].filter((at) => at !== -1).map((at) => at + end.length)
  for (const said of [text, ...places.map((at) => text.slice(at))]) {
    const whole = Sse.parse(said)
    if (whole !== undefined) return Either.right(whole)
  }
  for (const said of places.length === 0 ? [text] : places.map((at) => text.slice(at))) {
    const inside = within(said)
    if (inside !== undefined) return Either.right(inside)
  }
  return Either.left(undefined)
}

/** The JSON that has words round it. */
const within = (text: string): unknown => {
  for (const each of fenced(text)) {
    const inside = Sse.parse(each)
    if (inside !== undefined) return inside
  }
  // What begins first holds the other.
  const brackets = [
    [text.indexOf("{"), text.lastIndexOf("}")],
    [text.indexOf("["), text.lastIndexOf("]")]
  ] as const
  for (const [open, close] of [...brackets].sort(([a], [b]) => a - b)) {
    const inside = open === -1 ? undefined : Sse.parse(text.slice(open, close + 1))
    if (typeof inside === "object" && inside !== null) return inside
  }
  return undefined
}

/** What did not fit, by path and kind only: never a value, since values are the model's words. */
const pathsOf = (issue: ParseResult.ParseIssue): string => {
  const places = ParseResult.ArrayFormatter.formatIssueSync(issue).map(
    ({ _tag, path }) => `${path.length === 0 ? "the root" : path.map(String).join(".")}: ${_tag}`
  )
  return [...new Set(places)].slice(0, 10).join("; ")
}

interface Misfit {
  /** For errors and logs. */
  readonly issue: string
  /** For the model, which knows its own words. */
  readonly words: string
}

/** Servers that check the model's answer themselves say so with these codes: it is the answer that is bad. */
const badAnswer = new Set(["json_validate_failed", "tool_use_failed"])

const isBadAnswer = (error: LlmError): boolean => error.code !== undefined && badAnswer.has(error.code)

/** Whether the provider, or the protocol in its place, does not take the request as it is written. */
const isRefused = (error: LlmError): boolean => error.reason === "InvalidRequest" && !isBadAnswer(error)

const formats =
  /response[_ ]?format|json[_ ]?schema|structured[_ ]outputs?|output[_ ]?(?:config|format)|text\.format|guided|tool[_ ]?choice|\btools?\b|function[- _]?call|\bstrict\b/i
const unsupported =
  /(?:not|n't) (?:\w+ )?(?:support|available|allowed|enabled|implemented|permitted)|unsupported|unavailable|unknown|unrecogni[sz]ed|unexpected/i
const aboutSchema =
  /invalid[_ ]schema|\bschema (?:for|at|is|must|contains)\b|schema:|keyword|propert(?:y|ies)|in context/i

/** Whether a provider says that a model does not have this way of asking at all, whatever the schema. */
const isOfModel = ({ providerMessage: said = "" }: LlmError): boolean =>
  formats.test(said) && unsupported.test(said) && !aboutSchema.test(said)

/** Whether a provider says that it cannot hold this model to a schema. */
const isOfStrictness = ({ providerMessage: said = "" }: LlmError): boolean => /\bstrict\b/i.test(said)

/** What is asked for in one of the ways, and how the answer to it is read. */
interface Question {
  readonly request: LlmRequest
  /** The JSON of an answer; `undefined` if there is none. */
  readonly read: (response: Response.LlmResponse) => Either.Either<unknown, void>
  /** The request once more, with an answer that did not fit. */
  readonly again: (request: LlmRequest, response: Response.LlmResponse, words: string) => LlmRequest
}

interface Wanted {
  readonly name: string
  readonly description: string | undefined
  readonly schema: Readonly<Record<string, unknown>>
  /** The schema that the provider is to hold the model to, where it can. */
  readonly enforced: Readonly<Record<string, unknown>>
  readonly strict: boolean
}

const corrected = "Answer again with the corrected JSON only, and nothing else."

const inWords = (request: LlmRequest, response: Response.LlmResponse, words: string): LlmRequest => {
  // A call that nobody ran must not stay without its result.
  const said = Response.toMessage(response).content.filter((part) => part.type !== "tool-call")
  return {
    ...request,
    messages: [
      ...request.messages,
      ...(said.length === 0 ? [] : [{ role: "assistant" as const, content: said }]),
      ChatMessage.user(words)
    ]
  }
}

const fitting = (schema: Wanted["schema"]): string => `It must fit this JSON Schema:\n${JSON.stringify(schema)}`

/** A value is asked for, not a call: tools stay known, for the calls that the conversation may hold. */
const withoutCalls = (request: LlmRequest): LlmRequest =>
  request.tools === undefined || request.tools.length === 0 ? request : { ...request, toolChoice: "none" }

const native = (request: LlmRequest, wanted: Wanted): Question => ({
  request: {
    ...withoutCalls(request),
    responseFormat: {
      type: "json-schema",
      name: wanted.name,
      ...(wanted.description === undefined ? {} : { description: wanted.description }),
      schema: wanted.enforced,
      ...(wanted.strict ? { strict: true } : {})
    }
  },
  read: (response) => jsonIn(response.text),
  // Some servers take no notice of the format: the schema is said too.
  again: (asked, response, words) => inWords(asked, response, `${words}\n\n${corrected} ${fitting(wanted.enforced)}`)
})

const byPrompt = (request: LlmRequest, wanted: Wanted): Question => {
  const { responseFormat: _format, ...rest } = withoutCalls(request)
  const what = wanted.description === undefined ? "" : `The value is: ${wanted.description}\n`
  const instructions = ChatMessage.system(
    `Answer with one JSON value and nothing else: no explanation and no code fence.\n${what}${fitting(wanted.schema)}`
  )
  const first = request.messages.findIndex((message) => message.role !== "system")
  const at = first === -1 ? request.messages.length : first
  const messages = [...request.messages.slice(0, at), instructions, ...request.messages.slice(at)]
  return {
    request: { ...rest, messages },
    read: (response) => jsonIn(response.text),
    again: (asked, response, words) => inWords(asked, response, `${words}\n\n${corrected}`)
  }
}

const byTool = (request: LlmRequest, wanted: Wanted): Question => {
  const { responseFormat: _format, ...rest } = request
  const tools = request.tools ?? []
  let name = wanted.name
  while (tools.some((tool) => tool.name === name)) name = `${name.slice(0, 63)}_`
  const tool = {
    name,
    description: wanted.description ?? "Gives the answer. Call it once, with the whole answer as its arguments.",
    parameters: wanted.enforced,
    ...(wanted.strict ? { strict: true } : {})
  }
  const answerOf = (response: Response.LlmResponse) => response.toolCalls.find((call) => call.name === name)
  return {
    request: { ...rest, tools: [...tools, tool], toolChoice: { name }, parallelToolCalls: undefined },
    read: (response) => {
      const call = answerOf(response)
      if (call === undefined) return jsonIn(response.text)
      return call.invalid === undefined ? Either.right(call.arguments) : jsonIn(call.invalid)
    },
    again: (asked, response, words) => {
      const calls = response.toolCalls
      if (calls.length === 0) return inWords(asked, response, `${words}\n\nCall the tool ${name} with the answer.`)
      return {
        ...asked,
        messages: [
          ...asked.messages,
          Response.toMessage(response),
          {
            role: "tool",
            content: calls.map((call) => ({
              type: "tool-result" as const,
              id: call.id,
              name: call.name,
              result:
                call.name === name
                  ? `${words}\n\nCall ${name} again with the corrected arguments.`
                  : `Call ${name} with the answer, and no other tool.`,
              isError: true
            }))
          }
        ]
      }
    }
  }
}

const questions: { readonly [K in Mode]: (request: LlmRequest, wanted: Wanted) => Question } = {
  native,
  tool: byTool,
  prompt: byPrompt
}

/** Where in a schema the type is that has no words in JSON Schema. */
const placeOf = (thrown: unknown): string => {
  const path = thrown instanceof Error ? /^at path: (.{1,200})$/m.exec(thrown.message)?.[1] : undefined
  return path === undefined ? "" : `, at ${path}`
}

/** A value that fits `schema`. `known` is what has been learned of the models, and learns. */
export const generateObject = <A, I, R>(
  llm: Asked,
  known: Known,
  schema: Schema.Schema<A, I, R>,
  request: LlmRequest,
  options: ObjectOptions
): Effect.Effect<LlmObject<A>, LlmError, R> =>
  Effect.suspend(() => {
    const model = request.model ?? llm.model
    const written = Either.try(() => JsonSchema.fromSchema(schema))
    if (Either.isLeft(written)) {
      return Effect.fail(
        new LlmError({
          reason: "InvalidRequest",
          method: "generateObject",
          provider: llm.provider,
          model,
          issue: `the schema holds a type that JSON Schema has no words for${placeOf(written.left)}: encode it as one of JSON's`,
          retryable: false,
          midStream: false,
          cause: written.left
        })
      )
    }
    const root = written.right
    // Providers take an object at the root only: anything else travels as the property of one.
    const wrapped = !JsonSchema.isObject(root)
    const sent = wrapped ? JsonSchema.wrap(root) : root
    // Held to a schema a model answers better than by itself, even if it has to say of each property that there is none.
    const closed = llm.optionalProperties === "nullable" ? JsonSchema.nullable(sent) : sent
    const strict = JsonSchema.isEnforceable(closed)
    const wanted: Wanted = {
      name: options.name ?? nameOf(schema.ast),
      description: options.description,
      schema: sent,
      enforced: strict ? closed : sent,
      strict
    }
    const decode = Schema.decodeUnknown(schema, { errors: "all" })
    const repairs =
      options.repair === false ? 0 : options.repair === undefined || options.repair === true ? 1 : options.repair

    const fail = (response: Response.LlmResponse, usage: Response.Usage, issue: string, reason: LlmError["reason"]) =>
      Effect.fail(
        new LlmError({
          reason,
          method: "generateObject",
          provider: llm.provider,
          model,
          issue,
          retryable: false,
          midStream: false,
          usage,
          partial: {
            id: response.id,
            model: response.model,
            text: response.text,
            reasoning: response.reasoning,
            refusal: response.refusal,
            toolCalls: response.toolCalls
          }
        })
      )

    const parse = (
      question: Question,
      response: Response.LlmResponse
    ): Effect.Effect<Either.Either<A, Misfit>, never, R> => {
      const json = question.read(response)
      if (Either.isLeft(json)) {
        return Effect.succeed(Either.left({ issue: "the answer is not JSON", words: "The answer is not JSON." }))
      }
      return JsonSchema.decodeAnswer({ schema: sent, wrapped }, json.right, (value) => decode(value)).pipe(
        Effect.map((decoded) => Either.right(decoded)),
        Effect.catchAll((error) =>
          Effect.succeed(
            Either.left({
              issue: `the answer does not fit the schema at ${pathsOf(error.issue)}`,
              words: ParseResult.TreeFormatter.formatIssueSync(error.issue)
            })
          )
        )
      )
    }

    const attempt = (
      mode: Mode,
      question: Question,
      asked: LlmRequest,
      before: Response.Usage | undefined,
      left: number
    ): Effect.Effect<LlmObject<A>, LlmError, R> => {
      const answer: Effect.Effect<Response.LlmResponse, LlmError> = llm.generate(asked).pipe(
        // The server saw for itself that the answer is bad, and keeps it: all that can be done is to ask again.
        Effect.retry({ times: left, while: isBadAnswer }),
        // The answer before it was paid for too.
        Effect.mapError((error) =>
          before === undefined ? error : error.with({ usage: addUsage(before, error.usage ?? {}) })
        )
      )
      return Effect.flatMap(answer, (response) => {
        const usage = before === undefined ? response.usage : addUsage(before, response.usage)
        if (response.refusal !== undefined && response.text === "") {
          return fail(response, usage, "the model refused", "ContentFiltered")
        }
        if (response.finish === "content-filter") {
          return fail(response, usage, "the provider withheld the answer", "ContentFiltered")
        }
        return Effect.flatMap(parse(question, response), (parsed) => {
          if (Either.isRight(parsed)) {
            return Effect.succeed({ value: parsed.right, response, usage, repaired: before !== undefined, mode })
          }
          // An answer cut off by the limit of tokens would be cut off again.
          if (response.finish === "length") {
            return fail(response, usage, "the answer was cut off by the limit of tokens", "MalformedResponse")
          }
          if (left <= 0) return fail(response, usage, parsed.left.issue, "MalformedResponse")
          return attempt(mode, question, question.again(asked, response, parsed.left.words), usage, left - 1)
        })
      })
    }

    const ask = ({ loose, mode }: Way): Effect.Effect<LlmObject<A>, LlmError, R> => {
      const question = questions[mode](request, loose ? { ...wanted, enforced: sent, strict: false } : wanted)
      return attempt(mode, question, question.request, undefined, repairs)
    }

    const setting = options.structuredOutput ?? llm.structuredOutput ?? "auto"
    const open = ways.filter(
      ({ loose, mode }) => (setting === "auto" || mode === setting) && !(loose && !wanted.strict)
    )

    // What else of the request a provider may not take together with one of the ways.
    const ofModel = JSON.stringify([setting, model])
    const kind = JSON.stringify([
      setting,
      model,
      wanted.schema,
      request.reasoningEffort,
      request.providerOptions,
      (request.tools ?? []).length > 0
    ])
    /** Remembers what to begin with next time, as widely as the refusals were meant. Our own cost nothing. */
    const learn = (way: Way, refusals: ReadonlyArray<LlmError>) => {
      if (!refusals.some((error) => error.status !== undefined)) return
      if (known.size >= maxKnown) known.clear()
      known.set(refusals.every(isOfModel) ? ofModel : kind, way)
    }

    /** Later ways are for what the earlier do not take. If none is taken, it was not for the way it was asked. */
    const from = (index: number, refusals: ReadonlyArray<LlmError>): Effect.Effect<LlmObject<A>, LlmError, R> => {
      const way = open[index]
      const [refusal] = refusals
      if (way === undefined) return refusal === undefined ? ask({ mode: "prompt", loose: false }) : Effect.fail(refusal)
      return Effect.matchEffect(ask(way), {
        onFailure: (error) => {
          if (!isRefused(error)) return Effect.fail(error)
          const next = index + 1
          return from(open[next]?.loose === true && !isOfStrictness(error) ? next + 1 : next, [...refusals, error])
        },
        onSuccess: (object) => {
          learn(way, refusals)
          return Effect.succeed(object)
        }
      })
    }
    const begin = known.get(kind) ?? known.get(ofModel)
    const first = open.findIndex(({ loose, mode }) => mode === begin?.mode && loose === begin.loose)
    return from(Math.max(0, first), [])
  })
