/**
 * The examples of a package's README, and of guides, as programs: each block of TypeScript is written to a file of its own
 * and run by a test of the package. A program hands its result to `Effect.runPromise`. All of them together are
 * type-checked, with their package's test settings, by a test of the examples.
 */
import { execFile } from "node:child_process"
import * as Fs from "node:fs"
import * as Path from "node:path"
import { pathToFileURL } from "node:url"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"

/** One block of TypeScript: the words of its heading up to a colon or comma, and the program. */
export interface Block {
  readonly title: string
  readonly code: string
}

/** The blocks of `README.md` in the folder `root`. One that no program is run in is an error: it could not fail. */
export const blocks = (root: string): ReadonlyArray<Block> =>
  Fs.readFileSync(Path.join(root, "README.md"), "utf8")
    .split(/^## /m)
    .slice(1)
    .flatMap((section) => {
      const [heading = ""] = section.split("\n", 1)
      const [title = ""] = heading.split(/[:,]/)
      return [...section.matchAll(/```ts\n([\s\S]*?)```/g)].map(([, code = ""]) => {
        if (!code.includes("Effect.runPromise(")) throw new Error(`README of ${root}: "${title}" runs no program`)
        return { title, code: code.replace("Effect.runPromise(", "export default Effect.runPromise(") }
      })
    })

/**
 * The blocks of a guide, whose headings of every level count. A program ends with `Effect.runPromise(…)`, or with `main()`
 * where it is one without Effect, of the kind that one comes from.
 */
export const blocksOfGuide = (file: string): ReadonlyArray<Block> => {
  const found: Array<Block> = []
  let title = ""
  for (const [, heading, code] of Fs.readFileSync(file, "utf8").matchAll(/^#+ (.*)$|^```ts\n([\s\S]*?)^```$/gm)) {
    if (heading !== undefined) title = heading
    if (code === undefined) continue
    const runs = code.replace(/^(?:void )?(Effect\.runPromise\(|main\(\))/m, "export default $1")
    if (runs === code) throw new Error(`${file}: "${title}" runs no program`)
    found.push({ title, code: runs })
  }
  return found
}

/** Writes the blocks below `build/` of the package; they are removed with the scope. */
export const write = (
  root: string,
  all: ReadonlyArray<Block>
): Effect.Effect<{ readonly folder: string; readonly files: ReadonlyArray<string> }, never, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.sync(() => {
      Fs.mkdirSync(Path.join(root, "build"), { recursive: true })
      const folder = Fs.mkdtempSync(Path.join(root, "build", "readme-"))
      const files = all.map(({ code }, index) => {
        const file = Path.join(folder, `block${index}.ts`)
        Fs.writeFileSync(file, code)
        return file
      })
      const config = {
        extends: "../../tsconfig.test.json",
        compilerOptions: { rootDir: "../../../..", composite: false, incremental: false, tsBuildInfoFile: null },
        include: ["*.ts"],
        references: []
      }
      Fs.writeFileSync(Path.join(folder, "tsconfig.json"), JSON.stringify(config))
      return { folder, files }
    }),
    ({ folder }) => Effect.sync(() => Fs.rmSync(folder, { recursive: true, force: true }))
  )

/** What the compiler has to say of the blocks in these folders, a line each. What is wrong elsewhere has gates of its own. */
export const check = (folders: ReadonlyArray<string>): Effect.Effect<ReadonlyArray<string>> =>
  Effect.async((resume) => {
    const program = Path.join(import.meta.dirname, "internal", "check.mjs")
    const child = execFile(process.execPath, [program, ...folders], (error, stdout, stderr) => {
      if (error === null) resume(Effect.succeed([]))
      // a compiler that did not run has found nothing
      else if (stdout.trim() === "") resume(Effect.dieMessage(`the compiler did not run: ${stderr}`))
      else resume(Effect.succeed(stdout.trimEnd().split(/\n(?! )/)))
    })
    return Effect.sync(() => child.kill("SIGKILL"))
  })

/** Runs a written block and gives what its program gave. */
export const run = (file: string): Effect.Effect<unknown> =>
  Effect.promise(async () => {
    const module: { readonly default: Promise<unknown> } = await import(pathToFileURL(file).href)
    return await module.default
  })

/** Sets variables of the environment until the scope closes. */
export const environment = (variables: Readonly<Record<string, string>>): Effect.Effect<void, never, Scope.Scope> =>
  Effect.asVoid(
    Effect.acquireRelease(
      Effect.sync(() => {
        const before = Object.keys(variables).map((name) => [name, process.env[name]] as const)
        Object.assign(process.env, variables)
        return before
      }),
      (before) =>
        Effect.sync(() => {
          for (const [name, value] of before) {
            if (value === undefined) delete process.env[name]
            else process.env[name] = value
          }
        })
    )
  )
