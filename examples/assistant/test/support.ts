/**
 * What the assistant's tests share: the assistant as the settings make it, without a server around it.
 */
import * as Path from "node:path"
import { NodeContext, NodeHttpClient } from "@effect/platform-node"
import { Chunk, Effect, Layer, Stream } from "effect"
import * as Application from "../src/Application.ts"
import * as AppSettings from "../src/AppSettings.ts"
import { Assistant } from "../src/Assistant.ts"
import type { AskEvent, CitedSource } from "../src/Conversation.ts"

/** The folder of the assistant. */
export const folder = Path.resolve(import.meta.dirname, "..")

/** An environment in which nothing real is found: no key, and no Ollama at its address. */
export const bare: Readonly<Record<string, string>> = { LLM_PROVIDER: "local" }

/** The settings files under an environment of the test's own. */
export const settings = (env: Readonly<Record<string, string | undefined>>) =>
  AppSettings.load.pipe(
    Effect.provide(
      AppSettings.layer({ directory: Path.join(folder, "resources"), env }).pipe(Layer.provide(NodeContext.layer))
    )
  )

/** The assistant as it runs with these variables. */
export const assistant = (env: Readonly<Record<string, string | undefined>> = bare) =>
  Layer.unwrapEffect(
    Effect.map(settings(env), (loaded) => Application.layer(loaded, { runbooks: Path.join(folder, "runbooks") }))
  ).pipe(Layer.provide([NodeContext.layer, NodeHttpClient.layerUndici]))

/** One answer, gathered. */
export interface Answer {
  readonly events: ReadonlyArray<AskEvent>
  readonly text: string
  readonly sources: ReadonlyArray<CitedSource>
  readonly last: AskEvent | undefined
  /** The runbooks of the sources, each once, in order. */
  readonly runbooks: ReadonlyArray<string>
}

/** Gathers the events of an answer. */
export const gather = (events: ReadonlyArray<AskEvent>): Answer => {
  const sources = events.flatMap((event) => (event._tag === "sources" ? event.sources : []))
  return {
    events,
    text: events.map((event) => (event._tag === "delta" ? event.text : "")).join(""),
    sources,
    last: events.at(-1),
    runbooks: Array.from(new Set(sources.map((source) => source.runbook)))
  }
}

/** Asks in a session and waits for the end of the answer. */
export const ask = (session: string, question: string) =>
  Effect.gen(function* () {
    const { ask } = yield* Assistant
    const events = yield* ask(session, question)
    return gather(Chunk.toReadonlyArray(yield* Stream.runCollect(events)))
  }).pipe(Effect.scoped)

/** Opens a session. */
export const newSession = Effect.flatMap(Assistant, (service) => service.createSession)
