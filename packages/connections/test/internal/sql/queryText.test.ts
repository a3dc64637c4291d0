import { assert, describe, it } from "@effect/vitest"
import { FastCheck } from "effect"
import { operationOf, queryText } from "../../../src/internal/sql/queryText.ts"

describe("queryText", () => {
  it("keeps names and parameters, shows no value and no comment", () => {
    const cases: ReadonlyArray<readonly [sql: string, shown: string]> = [
      ["select * from users where id = $1 and t1.x2 = $12", "select * from users where id = $1 and t1.x2 = $12"],
      ["select 'it''s', E'a\\'b', 12, 1.5e-3, .5, -4 from t", "select ?, ?, ?, ?, ?, -? from t"],
      [`select "na'me", 'x' from "t""2"`, `select "na'me", ? from "t""2"`],
      ["select $$secret$$, $a$se'cret$a$, 'x'", "select ?, ?, ?"],
      ["select 1 -- 'secret\n, 2 /* it's */ from t", "select ? , ? from t"],
      ["  insert\n into  t\tvalues (0x1F, b'01', U&'d')", "insert into t values (?, ?, ?)"],
      ["select 'not closed secret", "select ?"],
      ["select $$not closed secret", "select ?"],
      ["select col1, größe2 from t_3 limit 10", "select col1, größe2 from t_3 limit ?"],
      ["select a::int4[3], x'ff', typename'lit'", "select a::int4[?], ?, typename?"]
    ]
    for (const [sql, shown] of cases) assert.strictEqual(queryText(sql), shown)
    assert.isAtMost(queryText(`select ${"column, ".repeat(1_000)} 1`).length, 2_001)
  })

  it("whatever text is quoted as PostgreSQL wants it, it is not shown", () => {
    const quoted = FastCheck.oneof(
      FastCheck.string().map((text) => `'${text.replace(/'/g, "''")}SECRET'`),
      FastCheck.string().map((text) => `e'${text.replace(/\\/g, "\\\\").replace(/'/g, "\\'")}SECRET'`),
      FastCheck.string().map((text) => `$q$${text.replaceAll("$", "")}SECRET$q$`)
    )
    FastCheck.assert(
      FastCheck.property(FastCheck.array(quoted, { maxLength: 4 }), (values) => {
        const shown = queryText(`select ${values.join(", ")} from t`)
        assert.notInclude(shown, "SECRET")
        const ambiguous = values.some((value) => value.startsWith("'") && value.includes("\\'"))
        if (!ambiguous) assert.isTrue(shown.endsWith("from t"), shown)
      }),
      { examples: [[["'\\''SECRET'"]]] }
    )
  })

  it("a backslash before a quote is not believed: the rest is not shown, whichever way the server reads it", () => {
    for (const sql of ["select '\\''SECRET' from t", "select 'a\\'SECRET' from t", "select n'\\', 'SECRET' from t"]) {
      assert.strictEqual(queryText(sql), "select ?")
    }
    assert.strictEqual(queryText("select 'a\\b', e'a\\'b' from t"), "select ?, ? from t")
  })

  it("the command is one of a closed list", () => {
    for (const [sql, operation] of [
      ["select 1", "SELECT"],
      ["  (Select 1)", "SELECT"],
      ["/* x */ with a as (select 1) select * from a", "WITH"],
      ["-- y\ninsert into t default values", "INSERT"],
      ["selec 1", "OTHER"],
      ["", "OTHER"]
    ] as const) {
      assert.strictEqual(operationOf(queryText(sql)), operation)
    }
  })
})
