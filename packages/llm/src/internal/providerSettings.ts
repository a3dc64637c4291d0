/**
 * Reading tables of named settings: which names there are, which settings a description knows, and every problem with the
 * place that the configuration gives it.
 */
import * as Config from "effect/Config"
import * as ConfigError from "effect/ConfigError"
import * as ConfigProvider from "effect/ConfigProvider"
import * as PathPatch from "effect/ConfigProviderPathPatch"
import * as Effect from "effect/Effect"
import * as Either from "effect/Either"
import * as HashMap from "effect/HashMap"
import * as HashSet from "effect/HashSet"
import * as Option from "effect/Option"

/** Where something stands: the names of the tables, from the outermost. */
export type Path = ReadonlyArray<string>

/** Every problem, one a line. None of them shows a value. */
export type Problems = ReadonlyArray<string>

/** A name as it is compared: `my-gpt`, `myGpt` and `MY_GPT` are one to the settings. */
export const canonical = (name: string): string => name.toLowerCase().replace(/[^a-z0-9]/g, "")

const nest = <A>(path: Path, config: Config.Config<A>): Config.Config<A> =>
  path.reduceRight<Config.Config<A>>((inner, name) => Config.nested(inner, name), config)

// What Effect's own providers say of a secret.
const redacted = "<redacted>"

// The readers of numbers, durations and the like show what they were given.
const shown = / but received [\s\S]*$/

const problemsOf = (error: ConfigError.ConfigError): Problems => {
  if (error._op === "And" || error._op === "Or") return [...problemsOf(error.left), ...problemsOf(error.right)]
  const path = error.path.join(".")
  const missing = error._op === "MissingData" ? "missing" : "it is not accepted"
  const message = error.message === redacted ? missing : error.message.replace(shown, "")
  // The provider of core's settings says the place and the path itself.
  return [path === "" || message.includes(path) ? message : `${path}: ${message}`]
}

/** What is read at a path, or every problem there. */
export const read = <A>(path: Path, config: Config.Config<A>): Effect.Effect<A, Problems> =>
  Effect.mapError(nest(path, config), problemsOf)

/** The text at a path, if there is one. */
export const textAt = (path: Path, name: string): Effect.Effect<string | undefined, Problems> =>
  Effect.map(read(path, Config.option(Config.nonEmptyString(name))), Option.getOrUndefined)

/** The names in the table at a path, in the order of the alphabet; none where there is no table. */
export const namesAt = (path: Path): Effect.Effect<ReadonlyArray<string>, Problems> =>
  Effect.map(read(path, Config.option(Config.hashMap(Config.succeed(true)))), (found) =>
    [...HashMap.keys(Option.getOrElse(found, HashMap.empty<string, boolean>))].sort()
  )

/** A problem of ours with a setting, with its place where the provider knows that. */
export const problemAt = (path: Path, name: string, message: string): Effect.Effect<Problems> =>
  Effect.match(
    nest(
      path,
      // It succeeds first and then refuses, so that the message is shown as it is.
      Config.mapOrFail(Config.succeed(name), () => Either.left(ConfigError.InvalidData([name], message)))
    ),
    { onFailure: problemsOf, onSuccess: () => [] }
  )

/** The names of the settings that a description asks for: what stands first in the paths that it looks at. */
export const settingsOf = (config: Config.Config<unknown>): Effect.Effect<ReadonlyArray<string>> =>
  Effect.suspend(() => {
    const names = new Set<string>()
    const asked = (path: Path): void => {
      const [first] = path
      if (first !== undefined) names.add(first)
    }
    const nothing = ConfigProvider.fromFlat(
      ConfigProvider.makeFlat({
        load: (path) => {
          asked(path)
          return Effect.fail(ConfigError.MissingData([...path], "nothing is there"))
        },
        enumerateChildren: (path) => {
          asked(path)
          return Effect.succeed(HashSet.empty<string>())
        },
        patch: PathPatch.empty
      })
    )
    return Effect.map(Effect.exit(nothing.load(config)), () => [...names])
  })

/**
 * The problems of what is no setting in the table at a path. A name that only begins the name of a variable
 * (`LLM_PROVIDERS_MAIN_API` of `LLM_PROVIDERS_MAIN_API_KEY`) is none.
 */
export const strangers = (path: Path, known: ReadonlyArray<string>, what: string): Effect.Effect<Problems> =>
  Effect.matchEffect(namesAt(path), {
    onFailure: Effect.succeed,
    onSuccess: (found) => {
      const names = new Set(known.map(canonical))
      return Effect.map(
        Effect.forEach(
          found.filter((name) => !names.has(canonical(name))),
          (name) =>
            Effect.flatMap(stands(path, name), (there) =>
              there
                ? problemAt(path, name, `there is no such setting; those of ${what} are ${known.join(", ")}`)
                : Effect.succeed([])
            )
        ),
        (all) => all.flat()
      )
    }
  })

/** Whether there is something at exactly this path. */
export const stands = (path: Path, name: string): Effect.Effect<boolean> =>
  Effect.match(nest(path, Config.string(name)), {
    onSuccess: () => true,
    onFailure: (error) => !ConfigError.isMissingDataOnly(error)
  })
