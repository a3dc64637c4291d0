/**
 * Who answers: the provider that is named, else the first with a key, else an Ollama that answers on its usual port, else
 * the local answerer.
 *
 * @since 0.1.0
 */
import { HttpClient, HttpClientResponse } from "@effect/platform"
import { Groq, type Llm, type LlmError, Ollama, OpenAi } from "@underlay/llm"
import { Effect, Layer, Option, type Redacted, Schema } from "effect"
import type { Answerer } from "./Answerer.ts"
import type { AppSettings, KeyedProvider } from "./AppSettings.ts"
import * as LlmAnswerer from "./LlmAnswerer.ts"
import * as LocalAnswerer from "./LocalAnswerer.ts"
import { type Chosen, PartError } from "./Parts.ts"

/**
 * The answerer that was chosen.
 *
 * @since 0.1.0
 * @category models
 */
export type ChosenAnswerer = Chosen<Answerer, HttpClient.HttpClient>

const local = (hint: string): ChosenAnswerer => ({
  part: { name: "answers", mode: "embedded", what: "local answerer, no language model", switch: hint },
  layer: LocalAnswerer.layer
})

const usual = "OPENAI_API_KEY=..., GROQ_API_KEY=..., or start Ollama"

const remote = (
  settings: AppSettings,
  name: string,
  what: string,
  url: string,
  model: string,
  layer: Layer.Layer<Llm.Llm, LlmError.LlmError, HttpClient.HttpClient>
): ChosenAnswerer => ({
  part: {
    name: "answers",
    mode: "real",
    what: `${what}, model ${model}`,
    address: new URL(url).host,
    check: `${name}/${model}`
  },
  layer: LlmAnswerer.layer({
    maxTokens: settings.llm.maxTokens,
    temperature: Option.getOrUndefined(settings.llm.temperature)
  }).pipe(
    Layer.provide(layer),
    Layer.mapError(
      (error) =>
        new PartError({ part: "answers", description: `${what} cannot be used: ${error.message}`, cause: error })
    )
  )
})

const keyed = (
  settings: AppSettings,
  name: "openai" | "groq",
  { baseUrl, model }: KeyedProvider,
  apiKey: Redacted.Redacted
): ChosenAnswerer => {
  const options = { apiKey, baseUrl, model, timeout: settings.llm.timeout }
  return name === "openai"
    ? remote(settings, OpenAi.kind, "OpenAI", baseUrl, model, OpenAi.layer(options))
    : remote(settings, Groq.kind, "Groq", baseUrl, model, Groq.layer(options))
}

const Tags = Schema.Struct({ models: Schema.Array(Schema.Struct({ name: Schema.String })) })

/** The models of the Ollama at its address; none when nobody answers there at once. */
const ollamaModels = (
  host: string
): Effect.Effect<Option.Option<ReadonlyArray<string>>, never, HttpClient.HttpClient> =>
  HttpClient.get(`${host}/api/tags`).pipe(
    Effect.flatMap(HttpClientResponse.filterStatusOk),
    Effect.flatMap(HttpClientResponse.schemaBodyJson(Tags)),
    Effect.map(({ models }) => models.map((one) => one.name)),
    Effect.timeout("500 millis"),
    Effect.scoped,
    Effect.option
  )

const ollama = (settings: AppSettings, model: string): ChosenAnswerer =>
  remote(
    settings,
    Ollama.kind,
    "Ollama",
    settings.ollama.host,
    model,
    Ollama.layer({ host: settings.ollama.host, model, timeout: settings.llm.timeout })
  )

/** An Ollama that was named must be there, with a model. */
const namedOllama = (settings: AppSettings): Effect.Effect<ChosenAnswerer, PartError, HttpClient.HttpClient> =>
  Effect.gen(function* () {
    if (Option.isSome(settings.ollama.model)) return ollama(settings, settings.ollama.model.value)
    const models = yield* ollamaModels(settings.ollama.host)
    const description = Option.isNone(models)
      ? `LLM_PROVIDER=ollama, but no Ollama answers at ${settings.ollama.host}. Start it (ollama serve), or correct OLLAMA_HOST`
      : `LLM_PROVIDER=ollama, but the Ollama at ${settings.ollama.host} has no model. Get one (ollama pull llama3.2)`
    const model = Option.getOrElse(models, () => [])[0]
    return model === undefined ? yield* new PartError({ part: "answers", description }) : ollama(settings, model)
  })

/** Whoever is there: the first provider with a key, an Ollama on its usual port, the local answerer. */
const whoeverIsThere = (settings: AppSettings): Effect.Effect<ChosenAnswerer, never, HttpClient.HttpClient> =>
  Effect.gen(function* () {
    if (Option.isSome(settings.openai.apiKey)) {
      return keyed(settings, "openai", settings.openai, settings.openai.apiKey.value)
    }
    if (Option.isSome(settings.groq.apiKey)) return keyed(settings, "groq", settings.groq, settings.groq.apiKey.value)
    const models = yield* ollamaModels(settings.ollama.host)
    if (Option.isNone(models)) return local(usual)
    const wanted = settings.ollama.model
    const model = Option.isNone(wanted)
      ? models.value[0]
      : models.value.find((name) => name === wanted.value || name === `${wanted.value}:latest`)
    if (model !== undefined) return ollama(settings, model)
    return local(
      Option.isNone(wanted)
        ? "the Ollama that was found has no model: ollama pull llama3.2"
        : `the Ollama that was found has no ${wanted.value}: ollama pull ${wanted.value}`
    )
  })

/**
 * Decides.
 *
 * @since 0.1.0
 * @category constructors
 */
export const choose = (settings: AppSettings): Effect.Effect<ChosenAnswerer, PartError, HttpClient.HttpClient> => {
  const named = Option.getOrUndefined(settings.llm.provider)
  switch (named) {
    case undefined:
      return whoeverIsThere(settings)
    case "local":
      return Effect.succeed(local(`unset LLM_PROVIDER, then ${usual}`))
    case "ollama":
      return namedOllama(settings)
    case "openai":
    case "groq": {
      const provider = settings[named]
      return Option.match(provider.apiKey, {
        onNone: () =>
          new PartError({ part: "answers", description: `LLM_PROVIDER=${named} needs ${named.toUpperCase()}_API_KEY` }),
        onSome: (key) => Effect.succeed(keyed(settings, named, provider, key))
      })
    }
  }
}
