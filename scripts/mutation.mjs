// pnpm mutation [name of a group, or part of a path …]: mutation testing of the resilience code, group by group (see
// mutation/groups.mjs); for the night. What has not changed since the last run is not run again, unless --force is given.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { groups } from "./mutation/groups.mjs"
import { root, run } from "./pnpm.mjs"

/** The score that the resilience code has to reach. */
const wanted = 85

const wishes = process.argv.slice(2).filter((argument) => !argument.startsWith("--"))
const options = process.argv.slice(2).filter((argument) => argument.startsWith("--"))
const folder = join(root, ".cache", "mutation")
const reports = join(folder, "reports")
mkdirSync(reports, { recursive: true })

const chosen = Object.entries(groups).flatMap(([name, { mutate }]) => {
  const files =
    wishes.length === 0 || wishes.includes(name)
      ? mutate
      : mutate.filter((file) => wishes.some((wish) => file.includes(wish)))
  return files.length === 0 ? [] : [{ name, files }]
})
if (chosen.length === 0) {
  console.error(`Neither a group nor a path of a file that is mutated: ${wishes.join(", ")}`)
  process.exit(1)
}

const failed = []
for (const { name, files } of chosen) {
  console.log(`\n${name}`)
  // Where the incremental file knows more files than are asked for, it keeps what it knows of them.
  const code = run(
    join(root, "node_modules", ".bin", "stryker"),
    ["run", "scripts/mutation/stryker.config.mjs", "--mutate", files.join(","), ...options],
    { env: { ...process.env, UNDERLAY_MUTATION_GROUP: name } }
  )
  if (code !== 0 || !existsSync(join(reports, `${name}.json`))) failed.push(name)
}

// Every report there is, so that a run of one group shows what it does to the whole; and the survivors with their places.
const sources = new Map()
for (const file of readdirSync(reports).sort()) {
  if (!(file.replace(".json", "") in groups)) {
    rmSync(join(reports, file))
    continue
  }
  for (const [path, source] of Object.entries(JSON.parse(readFileSync(join(reports, file), "utf8")).files)) {
    sources.set(path, source)
  }
}
const total = { told: 0, all: 0 }
const lines = []
const survivors = []
for (const [path, { mutants, source }] of [...sources].sort(([a], [b]) => (a < b ? -1 : 1))) {
  const of = (...states) => mutants.filter((mutant) => states.includes(mutant.status))
  const told = of("Killed", "Timeout").length
  const open = of("Survived", "NoCoverage")
  const all = told + open.length
  if (all === 0) continue
  total.told += told
  total.all += all
  lines.push(`${((100 * told) / all).toFixed(1).padStart(6)} %  ${`${told} of ${all}`.padStart(13)}  ${path}`)
  for (const mutant of open) {
    const { start, end } = mutant.location
    const rows = source.split("\n").slice(start.line - 1, end.line)
    const was =
      rows.length === 1 ? rows[0].slice(start.column - 1, end.column - 1) : `${rows[0].slice(start.column - 1)} …`
    const mark = mutant.status === "NoCoverage" ? " (never run)" : ""
    survivors.push(
      `${path}:${start.line}:${start.column} ${mutant.mutatorName}${mark}: ${was.trim()} → ${mutant.replacement.replaceAll(/\s+/g, " ")}`
    )
  }
}
writeFileSync(join(folder, "survivors.txt"), `${survivors.join("\n")}\n`)
const score = total.all === 0 ? 0 : (100 * total.told) / total.all
console.log(
  `\n${lines.join("\n")}\n${score.toFixed(1).padStart(6)} %  ${`${total.told} of ${total.all}`.padStart(13)}  in all`
)
console.log("The survivors stand in .cache/mutation/survivors.txt, what is known of them in docs/mutation.md.")
if (failed.length > 0) console.error(`Without a result: ${failed.join(", ")}`)
if (score < wanted) console.error(`The score is to be ${wanted} % at least.`)
process.exit(failed.length > 0 || score < wanted ? 1 : 0)
