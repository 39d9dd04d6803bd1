import psycopg, pytest
@pytest.mark.parametrize("n", range(20))
def test_it(database_url, n):
    with psycopg.connect(database_url) as c:
        print(c.execute("select version()").fetchone(), c.execute("select count(*) from fabmon_migration").fetchone(), c.execute("select extname from pg_extension").fetchall())
        c.execute("create table x(a int)")
