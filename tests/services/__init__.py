"""Services in processes of their own, as users write them; tests start and kill them."""
