/**
 * Structured output over a model that generates text: ask with the provider's JSON Schema format, validate, and ask once
 * more if the answer does not fit.
 */
import * as ChatMessage from "@underlay/core/state/ChatMessage"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as Option from "effect/Option"
import * as ParseResult from "effect/ParseResult"
import * as Schema from "effect/Schema"
import * as AST from "effect/SchemaAST"
import { LlmError } from "../LlmError.ts"
import type { LlmObject, ObjectOptions } from "../LlmObject.ts"
import type { LlmRequest, ResponseFormat } from "../LlmRequest.ts"
import * as Response from "../LlmResponse.ts"
import * as JsonSchema from "./jsonSchema.ts"

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

/** The JSON in an answer: models put fences round it even when they are asked not to. */
const unfenced = (text: string): string => {
  const match = /^\s*```[A-Za-z]*\s*\n([\s\S]*?)\n?\s*```\s*$/.exec(text)
  return match?.[1] ?? text
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

const addUsage = (a: Response.Usage, b: Response.Usage): Response.Usage => {
  const sum = (x: number | undefined, y: number | undefined) =>
    x === undefined && y === undefined ? undefined : (x ?? 0) + (y ?? 0)
  return {
    input: sum(a.input, b.input),
    output: sum(a.output, b.output),
    cachedInput: sum(a.cachedInput, b.cachedInput),
    cacheWrite: sum(a.cacheWrite, b.cacheWrite),
    reasoning: sum(a.reasoning, b.reasoning)
  }
}

/** A value that fits `schema`, with at most one repair. */
export const generateObject = <A, I, R>(
  llm: {
    readonly provider: string
    readonly model: string
    readonly generate: (request: LlmRequest) => Effect.Effect<Response.LlmResponse, LlmError>
  },
  schema: Schema.Schema<A, I, R>,
  request: LlmRequest,
  options: ObjectOptions
): Effect.Effect<LlmObject<A>, LlmError, R> =>
  Effect.suspend(() => {
    const root = JsonSchema.fromSchema(schema)
    // Providers take an object at the root only: anything else travels as the property of one.
    const wrapped = !JsonSchema.isObject(root)
    const jsonSchema = wrapped ? JsonSchema.wrap(root) : root
    const strict = JsonSchema.isEnforceable(jsonSchema)
    const format: ResponseFormat = {
      type: "json-schema",
      name: options.name ?? nameOf(schema.ast),
      ...(options.description === undefined ? {} : { description: options.description }),
      schema: jsonSchema,
      ...(strict ? { strict } : {})
    }
    const model = request.model ?? llm.model
    const decode = Schema.decodeUnknown(schema, { errors: "all" })

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

    const parse = (response: Response.LlmResponse): Effect.Effect<Either.Either<A, Misfit>, never, R> => {
      const json = Schema.decodeUnknownEither(Schema.parseJson())(unfenced(response.text))
      if (Either.isLeft(json)) {
        const words = "The answer is not JSON."
        return Effect.succeed(Either.left({ issue: "the answer is not JSON", words }))
      }
      const value: unknown = wrapped ? JsonSchema.unwrap(json.right) : json.right
      return decode(value).pipe(
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

    const attempt = (asked: LlmRequest, before: Response.Usage | undefined): Effect.Effect<LlmObject<A>, LlmError, R> =>
      Effect.flatMap(llm.generate(asked), (response) => {
        const usage = before === undefined ? response.usage : addUsage(before, response.usage)
        if (response.refusal !== undefined && response.text === "") {
          return fail(response, usage, "the model refused", "ContentFiltered")
        }
        if (response.finish === "content-filter") {
          return fail(response, usage, "the provider withheld the answer", "ContentFiltered")
        }
        return Effect.flatMap(parse(response), (parsed) => {
          if (Either.isRight(parsed)) {
            return Effect.succeed({ value: parsed.right, response, usage, repaired: before !== undefined })
          }
          // An answer cut off by the limit of tokens would be cut off again.
          const cut = response.finish === "length"
          if (cut) return fail(response, usage, "the answer was cut off by the limit of tokens", "MalformedResponse")
          if (before !== undefined || options.repair === false) {
            return fail(response, usage, parsed.left.issue, "MalformedResponse")
          }
          return attempt(
            {
              ...asked,
              messages: [
                ...asked.messages,
                Response.toMessage(response),
                ChatMessage.user(`${parsed.left.words}\n\nAnswer again with the corrected JSON only, and nothing else.`)
              ]
            },
            usage
          )
        })
      })

    return attempt({ ...request, responseFormat: format }, undefined)
  })
