/**
 * Starts the assistant: `npm start`, `npm start -- --port 3001`, `npm start -- --ask "redis refuses connections"`.
 *
 * @since 0.1.0
 */
import * as NodePath from "node:path"
import { parseArgs } from "node:util"
import { HttpServer, Terminal } from "@effect/platform"
import { NodeContext, NodeHttpClient, NodeRuntime } from "@effect/platform-node"
import { Logging, Settings } from "@underlay/core"
import { Cause, Console, Data, Effect, Either, Exit, Layer, Option, ParseResult, Schema, Stream } from "effect"
import { Ask } from "./Api.ts"
import * as Application from "./Application.ts"
import * as AppSettings from "./AppSettings.ts"
import { Assistant } from "./Assistant.ts"
import { Parts, table } from "./Parts.ts"
import { Search } from "./Search.ts"
import * as Service from "./Service.ts"

const folder = NodePath.resolve(import.meta.dirname, "..")

const usage = `Underlay assistant: answers troubleshooting questions from its runbooks.

  npm start                                      serve the web page and the API
  npm start -- --port 3001                       on another port (also: PORT=3001)
  npm start -- --ask "redis refuses connections" print one answer with its sources
  npm start -- --settings                        print every setting and where it comes from
  npm start -- --help                            print this`

/** What stops the program with a message for a person: no stack, no fiber. */
class Stop extends Data.TaggedError("Stop")<{ readonly message: string; readonly code: number }> {}

const arguments_ = Effect.suspend(() =>
  Either.try({
    try: () =>
      parseArgs({
        args: process.argv.slice(2),
        options: {
          ask: { type: "string" },
          port: { type: "string" },
          settings: { type: "boolean" },
          help: { type: "boolean", short: "h" }
        },
        allowPositionals: false
      }).values,
    catch: (error) =>
      new Stop({ message: `${error instanceof Error ? error.message : String(error)}\n\n${usage}`, code: 2 })
  })
)

const stopWith = (error: { readonly message: string }): Stop => new Stop({ message: error.message, code: 1 })

/** A question on the command line is held to the same limits as one that comes by HTTP. */
const checked = (question: string) =>
  Schema.decode(Ask)({ question }).pipe(
    Effect.mapBoth({
      onSuccess: (asked) => asked.question,
      onFailure: (error) =>
        new Stop({
          message: ParseResult.ArrayFormatter.formatErrorSync(error)
            .map((issue) => `The question ${issue.message}.`)
            .join("\n"),
          code: 2
        })
    })
  )

/** Prints one answer and its sources. */
const ask = (question: string) =>
  Effect.gen(function* () {
    const assistant = yield* Assistant
    const terminal = yield* Terminal.Terminal
    const print = (text: string) => Effect.orDie(terminal.display(text))
    const session = yield* assistant.createSession
    const events = yield* assistant.ask(session, question)
    let sources: ReadonlyArray<string> = []
    yield* Stream.runForEach(events, (event) => {
      switch (event._tag) {
        case "status":
          return event.phase === "searching" ? Effect.void : print(`${event.message}\n\n`)
        case "sources":
          sources = event.sources.map(
            (source) => `  [${source.number}] ${source.title}: ${source.heading} (runbooks/${source.runbook}.md)`
          )
          return Effect.void
        case "delta":
          return print(event.text)
        case "done":
          return print(sources.length === 0 ? "\n" : `\n\nSources:\n${sources.join("\n")}\n`)
        case "error":
          return Effect.andThen(print("\n"), new Stop({ message: event.message, code: 1 }))
      }
    })
  }).pipe(
    Effect.scoped,
    Effect.catchTags({
      SessionBusy: stopWith,
      SessionNotFound: stopWith,
      ShuttingDown: stopWith,
      StoreUnavailable: stopWith
    })
  )

/** Says where it serves and which parts are real. */
const announce = Effect.gen(function* () {
  const { address } = yield* HttpServer.HttpServer
  const parts = yield* Parts
  const { index } = yield* Search
  const where = address._tag === "TcpAddress" ? `http://${address.hostname}:${address.port}` : address.path
  yield* Console.log(
    [
      `Underlay assistant: ${where}`,
      ...table(parts),
      `  ${index.sections} sections of runbooks are in the index (${index.written} of them written now)`,
      `Stop it with Ctrl-C.`
    ].join("\n")
  )
})

/** The service, and what it says when it starts and stops. */
const serve = (settings: AppSettings.AppSettings) =>
  Layer.scopedDiscard(
    Effect.andThen(
      announce,
      Effect.addFinalizer(() => Console.log("Stopping: answers that are being written may finish."))
    )
  ).pipe(
    Layer.provide(Service.layer({ ...settings.server, page: NodePath.join(folder, "src", "page") })),
    Layer.mapError(stopWith)
  )

const program = Effect.gen(function* () {
  const given = yield* arguments_
  if (given.help === true) return yield* Console.log(usage)
  const question = given.ask === undefined ? undefined : yield* checked(given.ask)
  const layer = AppSettings.layer({
    directory: NodePath.join(folder, "resources"),
    overrides: given.port === undefined ? {} : { "server.port": given.port }
  })
  return yield* Effect.gen(function* () {
    const settings = yield* AppSettings.load
    if (given.settings === true) return yield* Console.log(yield* (yield* Settings.Settings).explain)
    const application = Application.layer(settings, { runbooks: NodePath.join(folder, "runbooks") }).pipe(
      Layer.mapError(stopWith)
    )
    const logging = Logging.layer({ level: settings.log.level, format: settings.log.format })
    const run =
      question === undefined
        ? Layer.launch(serve(settings).pipe(Layer.provide(application)))
        : ask(question).pipe(Effect.provide(application))
    return yield* run.pipe(Effect.provide(logging))
  }).pipe(Effect.provide(layer))
}).pipe(Effect.provide([NodeContext.layer, NodeHttpClient.layerUndici]))

const reported = program.pipe(
  Effect.catchTags({
    SettingsError: (error) =>
      new Stop({ message: `The assistant cannot start with these settings.\n${error.message}`, code: 1 })
  })
)

// Whoever reads the output may have read enough (`| head`): that is an end, not a failure.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error
  process.exit(0)
})

NodeRuntime.runMain(
  Effect.tapErrorCause(reported, (cause) =>
    Option.match(Cause.failureOption(cause), {
      onNone: () => (Cause.isInterruptedOnly(cause) ? Effect.void : Console.error(Cause.pretty(cause))),
      onSome: (error) => Console.error(error.message)
    })
  ),
  {
    disableErrorReporting: true,
    // Logging prints each line once, redacted and in the format of the settings.
    disablePrettyLogger: true,
    teardown: (exit, onExit) =>
      onExit(
        Exit.match(exit, {
          onSuccess: () => 0,
          onFailure: (cause) =>
            Option.match(Cause.failureOption(cause), {
              onNone: () => (Cause.isInterruptedOnly(cause) ? 0 : 1),
              onSome: (error) =>
                typeof error === "object" && error !== null && "code" in error ? Number(error.code) : 1
            })
        })
      )
  }
)
